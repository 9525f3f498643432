"""Features are what the submodule gave, whoever wraps the network, and nothing stays behind."""

import copy
import gc
import pickle
import weakref
from types import SimpleNamespace

import pytest
import torch
from small_networks import WithFeatures, network, snapshot
from small_objectives import OBJECTIVE, Hints
from tapped_networks import INPUTS, PATHS, TARGETS, Holder, Net, assert_right, by_hand, hooks
from torch import nn
from torch.utils.checkpoint import checkpoint

from kdrepro import Batches, Taps, cache_teacher, fit, predict
from kdrepro.teacher import FrozenTeacher

# What a feature is.


def test_features_are_outputs_and_inputs_as_they_were_before_anything_changed_them_in_place():
    net = Net()
    out = Taps(net, PATHS)(INPUTS)
    assert_right(out, net, INPUTS)
    assert (out.features["line"] < 0).any()
    torch.testing.assert_close(out.logits, net(INPUTS))


def test_changing_a_feature_does_not_reach_into_the_network():
    net = Net()
    out = Taps(net, {"relu": "block2.relu"})(INPUTS)
    out.features["relu"].zero_()
    out.logits.sum().backward()
    expected = torch.autograd.grad(net(INPUTS).sum(), net.block1.line.weight)[0]
    torch.testing.assert_close(net.block1.line.weight.grad, expected)


def test_gradients_flow_through_a_feature_into_the_layers_below_it_only():
    net = Net()
    Taps(net, PATHS)(INPUTS).features["sum"].square().sum().backward()
    expected = torch.autograd.grad(by_hand(net, INPUTS)["sum"].square().sum(), net.block1.line.weight)[0]
    torch.testing.assert_close(net.block1.line.weight.grad, expected)
    assert net.block2.line.weight.grad is None


def test_an_explicit_output_and_a_name_with_a_colon_in_it():
    net = nn.ModuleDict({"a:input": nn.Linear(4, 4), "head": nn.Linear(4, 5)})
    net.forward = lambda inputs: net["head"](net["a:input"](inputs))
    out = Taps(net, {"named": "a:input", "logits": "head:output"})(INPUTS)
    assert torch.equal(out.features["named"], net["a:input"](INPUTS))
    assert torch.equal(out.features["logits"], out.logits)


@pytest.mark.parametrize(
    "make",
    [
        lambda inputs: (inputs, None),
        lambda inputs: [inputs, inputs * 2],
        lambda inputs: SimpleNamespace(last_hidden_state=inputs, hidden_states=None),
        lambda inputs: inputs,
    ],
    ids=["tuple", "list", "last_hidden_state", "tensor"],
)
@pytest.mark.parametrize("path", ["part", "part:input"])
@pytest.mark.parametrize("by_name", [False, True])
def test_of_several_values_the_first_of_an_output_its_last_hidden_state(make, path, by_name):
    out = Taps(Holder(make, by_name=by_name), {"x": path})(INPUTS)
    assert torch.equal(out.features["x"], INPUTS)


def test_features_that_the_network_gives_itself_stay():
    net = WithFeatures()
    out = Taps(net, {"body": "body"})(INPUTS)
    assert torch.equal(out.features["body"].relu(), out.features["hidden"])
    with pytest.raises(ValueError, match=r"taps\['hidden'\]: the module itself gives a feature 'hidden'"):
        Taps(net, {"hidden": "body"})(INPUTS)


def test_taps_on_taps_lead_into_the_network():
    net = Net()
    out = Taps(Taps(net, {"one": "block1"}), {"line": "block2.line"})(INPUTS)
    expected = by_hand(net, INPUTS)
    torch.testing.assert_close(out.features, {name: expected[name] for name in ("one", "line")})


# What cannot be meant.


@pytest.mark.parametrize(
    ("net", "taps", "kind", "message"),
    [
        (
            Holder(lambda x: x, times=2),
            "part",
            ValueError,
            r"'part' was called twice in one forward, expected once",
        ),
        (Holder(lambda x: x, times=0), "part:input", ValueError, "'part' was not called in this forward"),
        (Holder(lambda x: {"x": x}), "part", TypeError, "'part' gave dict, expected a tensor, a tuple"),
        (Holder(lambda x: {"x": x}), "part:input", TypeError, "'part' got dict, expected a tensor"),
        (Holder(lambda x: ()), "part", TypeError, "'part' gave tuple, expected a tensor"),
        (Holder(lambda x: ((x, x), x)), "part", TypeError, "'part' gave tuple, expected a tensor"),
        (Holder(lambda x: None), "part", TypeError, "'part' gave NoneType, expected a tensor"),
    ],
)
def test_a_forward_that_gives_no_one_feature_is_an_error_that_names_the_tap(net, taps, kind, message):
    with pytest.raises(kind, match=rf"^taps\['x'\]: {message}"):
        Taps(net, {"x": taps})(INPUTS)
    assert hooks(net) == 0


def test_a_wrong_path_lists_the_near_ones():
    with pytest.raises(ValueError, match=r"got 'blok2.line', .* such as 'block2.line', 'block1.line'"):
        Taps(Net(), {"x": "blok2.line"})
    with pytest.raises(ValueError, match=r"got 'layer9', .* such as 'block1', 'block2', 'head'"):
        Taps(Net(), {"x": "layer9"})
    with pytest.raises(ValueError, match=r"got 'block2:before', .* \(with ':input' after it .* 'block2'"):
        Taps(Net(), {"x": "block2:before"})


def test_a_submodule_that_was_replaced_is_found_one_that_was_removed_is_missed():
    net = Net()
    taps = Taps(net, {"line": "block2.line"})
    net.block2.line = nn.Linear(4, 4)
    assert torch.equal(taps(INPUTS).features["line"], by_hand(net, INPUTS)["line"])
    net.block2 = nn.Identity()
    with pytest.raises(ValueError, match=r"^taps\['line'\]: 'block2.line' was there when it was tapped"):
        taps(INPUTS)


# Nothing stays behind.


def test_a_forward_that_fails_leaves_no_hook_and_nothing_stale():
    net = Net()
    taps = Taps(net, PATHS)
    taps(INPUTS)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        taps(INPUTS[:, :3])
    assert hooks(net) == 0
    assert_right(taps(INPUTS + 1), net, INPUTS + 1)


def test_hooks_of_others_run_and_stay():
    net, seen = Net(), []
    mine = net.block1.register_forward_hook(lambda module, inputs, output: seen.append(output) or output * 0)
    out = Taps(net, {"one": "block1"})(INPUTS)
    assert len(seen) == 1
    assert not out.features["one"].any()
    mine.remove()
    assert hooks(net) == 0


@pytest.mark.parametrize("compiled", [False, True])
def test_features_and_their_graph_live_as_long_as_the_caller_keeps_them(compiled):
    net = Net()
    taps = Taps(net, PATHS)
    call = torch.compile(taps, backend="eager") if compiled else taps
    gc.collect()
    gc.disable()
    try:
        out = call(INPUTS)
        alive = [weakref.ref(value) for value in out.features.values()]
        assert all(each().grad_fn is not None for each in alive)
        del out
        # At once, without the garbage collector: nothing here goes round in a circle.
        assert [each() for each in alive] == [None] * 3
    finally:
        gc.enable()


def test_a_network_that_failed_frees_its_features_with_the_error():
    net, alive = Net(), []
    taps = Taps(net, PATHS)
    net.block1.register_forward_hook(lambda module, inputs, output: alive.append(weakref.ref(output)))
    net.head = nn.Linear(3, 5)
    with pytest.raises(RuntimeError):
        taps(INPUTS)
    gc.collect()
    assert [each() for each in alive] == [None]


# Modes, copies, states.


def test_it_is_a_module_around_the_network():
    net = network().eval()
    taps = Taps(net, {"hidden": "2"})
    assert not taps.training
    taps.train()
    assert all(part.training for part in net.modules())
    assert set(taps.state_dict()) == {f"module.{name}" for name in net.state_dict()}
    assert set(taps.parameters()) == set(net.parameters())
    assert set(taps.module.state_dict()) == set(net.state_dict())
    assert taps.double()(INPUTS.double()).features["hidden"].dtype == torch.float64
    assert "hidden=2" in repr(taps)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda taps: pickle.loads(pickle.dumps(taps))], ids=["deepcopy", "pickle"]
)
def test_a_copy_has_a_network_of_its_own(copied):
    taps = Taps(Net(), PATHS)
    taps(INPUTS)
    twin = copied(taps)
    nn.init.zeros_(taps.module.block1.line.weight)
    assert_right(twin(INPUTS), twin.module, INPUTS)
    assert_right(taps(INPUTS), taps.module, INPUTS)
    assert not torch.equal(twin(INPUTS).features["one"], taps(INPUTS).features["one"])


def test_autocast_shows_in_the_features():
    net = Net()
    with torch.autocast("cpu", torch.bfloat16):
        out, line = Taps(net, PATHS)(INPUTS), net.block2.line(2 * net.block1(INPUTS))
    assert out.features["line"].dtype == torch.bfloat16
    assert torch.equal(out.features["line"], line)


def test_no_gradient_and_inference_mode():
    net = Net()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            out = Taps(net, PATHS)(INPUTS)
            assert_right(out, net, INPUTS)
        assert not out.features["one"].requires_grad


class Checkpointed(nn.Module):
    """A network with a part whose activations are computed again when the gradient needs them."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.part, self.head, self.reentrant = nn.Linear(4, 4), nn.Linear(4, 5), reentrant

    def forward(self, inputs):
        inputs = inputs.requires_grad_()
        return self.head(checkpoint(self.part, inputs, use_reentrant=self.reentrant))


def test_a_feature_from_an_activation_checkpoint_has_a_gradient_or_a_warning(recwarn):
    taps = {"part": "part"}
    net = Checkpointed(reentrant=False)
    feature = Taps(net, taps)(INPUTS.clone()).features["part"]
    feature.sum().backward()
    assert net.part.weight.grad is not None
    with torch.no_grad():
        Taps(Checkpointed(reentrant=True), taps)(INPUTS.clone())
    assert not recwarn
    with pytest.warns(
        UserWarning, match=r"taps\['part'\]: 'part' ran without gradient .* use_reentrant=False"
    ):
        feature = Taps(Checkpointed(reentrant=True), taps)(INPUTS.clone()).features["part"]
    assert not feature.requires_grad


def test_a_nested_tensor_is_refused_with_what_to_do():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    padding = torch.tensor([[False, False, True], [False, False, False]])
    inputs = torch.randn(2, 3, 4)
    for nested in (True, False):
        net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested).eval()
        tapped = Taps(net, {"first": "layers.0"})
        with torch.no_grad():
            if nested:
                with pytest.raises(
                    ValueError, match=r"'layers.0' gave a nested tensor.*enable_nested_tensor=False"
                ):
                    tapped(inputs, src_key_padding_mask=padding)
            else:
                features = tapped(inputs, src_key_padding_mask=padding).features
                assert features["first"].shape == inputs.shape


# In a teacher, in training.


def test_a_frozen_teacher_with_taps_of_its_own_and_around_a_tapped_network():
    net = network()
    before = snapshot(net.eval())
    for frozen in (
        FrozenTeacher(net, teacher_taps={"hidden": "2"}),
        FrozenTeacher(Taps(net, {"hidden": "2"})),
        FrozenTeacher([net], teacher_taps={"hidden": "2"}),
    ):
        net.train()
        out = frozen(INPUTS)
        assert torch.equal(out.features["hidden"], net[:3](INPUTS))
        assert not out.features["hidden"].requires_grad
        assert snapshot(net) == before
    assert frozen.modules == (net,)


def training(**changes):
    return {
        "batches": Batches(INPUTS, TARGETS, batch_size=8, seed=0),
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        "epochs": 3,
        "device": "cpu",
        "precision": "fp32",
        **changes,
    }


def test_fit_trains_a_tapped_student_as_it_trains_the_bare_one():
    bare, tapped, objective = network(1), network(1), OBJECTIVE
    curves = [
        fit(student, objective, teacher=teacher, **training()).curves
        for student, teacher in ((bare, network(0)), (Taps(tapped, {"x": "2"}), Taps(network(0), {"x": "2"})))
    ]
    assert curves[0] == curves[1]
    assert snapshot(bare) == snapshot(tapped)
    assert torch.equal(
        predict(bare, INPUTS, device="cpu"), predict(Taps(tapped, {"x": "2"}), INPUTS, device="cpu")
    )


def test_fit_matches_tapped_features_cached_or_not_and_leaves_no_hook():
    curves = []
    for cached in (False, True):
        teacher, student = network(0, width=12), network(1)
        frozen = FrozenTeacher(teacher, teacher_taps={"hidden": "2"})
        before = snapshot(teacher)
        options = training()
        if cached:
            frozen = cache_teacher(frozen, options["batches"], device="cpu", precision="fp32")
        torch.manual_seed(0)
        history = fit(Taps(student, {"hidden": "2"}), Hints(), teacher=frozen, **options)
        assert snapshot(teacher) == before
        assert hooks(student) + hooks(teacher) == 0
        curves.append(history.curves["loss/hint"])
    assert curves[0] == pytest.approx(curves[1], rel=1e-6)
    assert curves[0][-1] < curves[0][0]


def test_a_tap_into_a_scripted_network_says_what_torch_says():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    with pytest.raises(RuntimeError, match="register_forward_hook is not supported on ScriptModules"):
        Taps(scripted, {"hidden": "0"})(torch.zeros(2, 4))
