"""Features are what the submodule gave, whoever wraps or compiles the network, and nothing stays behind."""

import copy
import gc
import pickle
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch
from small_networks import WithFeatures, batch, network, snapshot
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdrepro import Batches, HintonKD, Outputs, Taps, cache_teacher, fit, predict
from kdrepro.taps import parts
from kdrepro.teacher import FrozenTeacher

INPUTS, TARGETS = batch()
PATHS = {"one": "block1", "sum": "block2:input", "line": "block2.line"}


class Block(nn.Module):
    """A layer whose output is changed in place afterwards, twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.line, self.relu = nn.Linear(width, width), nn.ReLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.line(inputs)
        hidden += inputs
        return self.relu(hidden)


class Net(nn.Module):
    def __init__(self, seed: int = 0, *, breaks: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.block1, self.block2, self.head = Block(4), Block(4), nn.Linear(4, 5)
        self.breaks = breaks

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.block1(inputs)
        if self.breaks:
            torch._dynamo.graph_break()
        return self.head(self.block2(2 * hidden))


def by_hand(net: Net, inputs: Tensor) -> dict[str, Tensor]:
    """The features of PATHS and the logits, written out."""
    one = (net.block1.line(inputs) + inputs).relu()
    line = net.block2.line(2 * one)
    return {"one": one, "sum": 2 * one, "line": line, "logits": net.head((line + 2 * one).relu())}


def hooks(module: nn.Module) -> int:
    kinds = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs",
    )
    return sum(len(getattr(part, kind)) for part in module.modules() for kind in kinds)


def assert_right(out: Outputs, net: Net, inputs: Tensor) -> None:
    expected = by_hand(net, inputs)
    torch.testing.assert_close({**out.features, "logits": out.logits}, expected)
    assert list(out.features) == list(PATHS)
    assert hooks(net) == 0


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


class Holder(nn.Module):
    """Passes what `make` makes of its input through a submodule, and gives the input as logits."""

    def __init__(self, make, *, times: int = 1, by_name: bool = False) -> None:
        super().__init__()
        self.part, self.make, self.times, self.by_name = Passes(), make, times, by_name

    def forward(self, inputs: Tensor) -> Tensor:
        for _ in range(self.times):
            value = self.make(inputs)
            self.part(value=value) if self.by_name else self.part(value)
        return inputs


class Passes(nn.Module):
    def forward(self, value):
        return value


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


# Wrapped, replicated, in threads.


class Replicated(nn.DataParallel):
    """DataParallel without its devices: replicas that share hooks, each in a thread of its own."""

    def __init__(self, module: nn.Module, count: int = 2) -> None:
        nn.Module.__init__(self)
        self.module, self.count = module, count

    def forward(self, inputs: Tensor):
        pieces, gathered = inputs.chunk(self.count), [None] * self.count
        replicas = [replica(self.module) for _ in pieces]

        def work(place: int) -> None:
            gathered[place] = replicas[place](pieces[place])

        in_threads(self.count, work)
        return gather(gathered)


def replica(module: nn.Module) -> nn.Module:
    """As torch.nn.parallel.replicate makes them."""
    twin = module._replicate_for_data_parallel()
    for name, value in module._parameters.items():
        setattr(twin, name, None if value is None else value.view_as(value))
    for name, child in module._modules.items():
        setattr(twin, name, replica(child))
    return twin


def gather(values):
    """As torch.nn.parallel.gather does, which knows tensors, mappings and sequences."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(values)
    if isinstance(first, dict):
        return type(first)((name, gather([value[name] for value in values])) for name in first)
    return type(first)(map(gather, zip(*values, strict=True)))


def in_threads(count: int, work) -> None:
    errors = []

    def guarded(place: int) -> None:
        try:
            work(place)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    if errors:
        raise errors[0]


class Meets(nn.Module):
    """Waits until all threads are here, so that their forwards overlap."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.barrier = threading.Barrier(count, timeout=20)

    def forward(self, inputs: Tensor) -> Tensor:
        self.barrier.wait()
        return inputs


def meeting_net(count: int = 2) -> Net:
    net = Net()
    net.block1, net.block1.relu = Block(4), nn.Sequential(Meets(count), nn.ReLU(inplace=True))
    return net


def test_replicas_capture_each_their_own_and_the_wrapper_gathers_them_in_order():
    net = meeting_net()
    parallel = Replicated(net)
    taps = Taps(parallel, PATHS)
    for _ in range(3):
        out = taps(INPUTS)
        assert list(out.features) == list(PATHS)
        expected = by_hand(net, INPUTS)
        torch.testing.assert_close({**out.features, "logits": out.logits}, expected)
    assert parallel.module is net
    out.features["one"].sum().backward()
    expected = torch.autograd.grad(expected["one"].sum(), net.block1.line.weight)[0]
    torch.testing.assert_close(net.block1.line.weight.grad, expected)
    assert hooks(parallel) == 0


def test_taps_inside_what_is_replicated_keep_the_threads_apart():
    class Step(nn.Module):
        def __init__(self, taps: Taps) -> None:
            super().__init__()
            self.taps = taps

        def forward(self, inputs):
            out = self.taps(inputs)
            return out.logits, out.features

    net = meeting_net()
    logits, features = Replicated(Step(Taps(net, PATHS)))(INPUTS)
    torch.testing.assert_close({**features, "logits": logits}, by_hand(net, INPUTS))
    assert hooks(net) == 0


def test_two_threads_may_ask_one_network():
    net = meeting_net(count=4)
    taps, found = [Taps(net, PATHS), Taps(net, PATHS)], [None] * 4

    def work(place: int) -> None:
        found[place] = taps[place % 2](INPUTS + place)

    in_threads(4, work)
    for place, out in enumerate(found):
        torch.testing.assert_close(out.features["line"], by_hand(net, INPUTS + place)["line"])
    assert hooks(net) == 0


def test_data_parallel_without_devices():
    net = Net()
    assert_right(Taps(nn.DataParallel(net), PATHS)(INPUTS), net, INPUTS)
    assert_right(nn.DataParallel(Taps(net, PATHS))(INPUTS), net, INPUTS)
    out = Taps(nn.DataParallel(net), {"line": "module.block2.line"})(INPUTS)
    assert torch.equal(out.features["line"], by_hand(net, INPUTS)["line"])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_data_parallel_on_two_devices():
    net = Net().cuda()
    out = Taps(nn.DataParallel(net), PATHS)(INPUTS.cuda())
    torch.testing.assert_close({**out.features, "logits": out.logits}, by_hand(net, INPUTS.cuda()))


@pytest.fixture
def one_process():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_distributed_data_parallel_inside_and_outside(one_process):
    for wrap in (
        lambda net: Taps(DistributedDataParallel(net), PATHS),
        lambda net: DistributedDataParallel(Taps(net, PATHS)),
    ):
        net = Net()
        wrapped = wrap(net)
        for _ in range(2):
            out = wrapped(INPUTS)
            assert_right(out, net, INPUTS)
            (out.logits.sum() + sum(value.sum() for value in out.features.values())).backward()
        assert net.block1.line.weight.grad is not None


def test_paths_are_listed_without_those_of_wrappers():
    net = Net()
    plain = [path for path, _ in net.named_modules()]
    wrapped = nn.DataParallel(net)
    net.block2.line = torch.compile(net.block2.line, backend="eager")
    assert [path for path, _ in parts(wrapped)] == plain


# Compiled.


def compiled(**changes):
    return {"backend": "eager", **changes}


def around(net: nn.Module):
    return torch.compile(Taps(net, PATHS), **compiled())


def around_in_one_graph(net: nn.Module):
    return torch.compile(Taps(net, PATHS), **compiled(fullgraph=True))


def inside(net: nn.Module):
    return Taps(torch.compile(net, **compiled()), PATHS)


def inside_after_a_call_without(net: nn.Module):
    whole = torch.compile(net, **compiled())
    whole(INPUTS)
    return Taps(whole, PATHS)


def around_after_a_call_without(net: nn.Module):
    torch.compile(net, **compiled())(INPUTS)
    return around_in_one_graph(net)


def around_after_an_eager_call(net: nn.Module):
    taps = Taps(net, PATHS)
    taps(INPUTS)
    return torch.compile(taps, **compiled())


def in_place(net: nn.Module):
    taps = Taps(net, PATHS)
    taps.compile(**compiled())
    return taps


WAYS = [
    around,
    around_in_one_graph,
    inside,
    inside_after_a_call_without,
    around_after_a_call_without,
    around_after_an_eager_call,
    in_place,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_compiled_it_gives_the_same_features(way):
    torch.compiler.reset()
    net = Net()
    own = [part._forward_hooks for part in net.modules()]
    call = way(net)
    for shift in range(3):
        out = call(INPUTS + shift)
        assert_right(out, net, INPUTS + shift)
    assert all(part._forward_hooks is before for part, before in zip(net.modules(), own, strict=True))
    out.features["line"].square().sum().backward()
    expected = torch.autograd.grad(by_hand(net, INPUTS + 2)["line"].square().sum(), net.block1.line.weight)[0]
    torch.testing.assert_close(net.block1.line.weight.grad, expected)


@pytest.mark.parametrize("way", [around, inside], ids=lambda way: way.__name__)
def test_compiled_with_a_break_in_the_graph_it_gives_the_same_features(way):
    torch.compiler.reset()
    net = Net(breaks=True)
    call = way(net)
    for shift in range(3):
        assert_right(call(INPUTS + shift), net, INPUTS + shift)


def test_code_that_was_compiled_in_pieces_without_hooks_is_noticed():
    torch.compiler.reset()
    net = Net(breaks=True)
    torch.compile(net, **compiled())(INPUTS)
    with pytest.raises(
        ValueError, match=r"was not called in this forward.*torch.compiler.reset\(\) forgets it"
    ):
        around(net)(INPUTS)


@pytest.mark.parametrize("what", ["net.compile()", "a block", "a block in place"])
def test_a_part_that_is_compiled_by_itself_is_refused_unless_all_is_compiled_around_it(what):
    torch.compiler.reset()
    net = Net()
    taps = Taps(net, PATHS)
    if what == "net.compile()":
        net.compile(**compiled())
    elif what == "a block":
        net.block2 = torch.compile(net.block2, **compiled())
    else:
        net.block2.compile(**compiled())
    with pytest.raises(ValueError, match=r"lies in a part that is compiled by itself .* torch.compile\(Taps"):
        taps(INPUTS)
    assert hooks(net) == 0
    assert_right(torch.compile(taps, **compiled())(INPUTS), net, INPUTS)


def test_the_output_of_a_block_that_is_compiled_as_a_whole_is_fine():
    torch.compiler.reset()
    net = Net()
    net.block1 = torch.compile(net.block1, **compiled())
    taps = Taps(net, {"one": "block1", "line": "block2.line"})
    for _ in range(2):
        out = taps(INPUTS)
        torch.testing.assert_close(out.features["one"], by_hand(net, INPUTS)["one"])


def test_what_goes_wrong_goes_wrong_when_compiled_too():
    torch.compiler.reset()
    for times, message in ((2, "called twice"), (0, "was not called")):
        net = Holder(lambda inputs: inputs, times=times)
        with pytest.raises(ValueError, match=rf"taps\['x'\]: 'part' .*{message}|{message}"):
            torch.compile(Taps(net, {"x": "part"}), backend="eager")(INPUTS)
        assert hooks(net) == 0


def test_a_compiled_network_in_taps_can_be_copied():
    torch.compiler.reset()
    taps = inside(Net())
    taps(INPUTS)
    twin = copy.deepcopy(taps)
    nn.init.zeros_(taps.module._orig_mod.block1.line.weight)
    assert_right(twin(INPUTS), twin.module._orig_mod, INPUTS)


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


class Hints(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.regressor = nn.Linear(8, 12)

    def forward(self, student, teacher, batch):
        apart = self.regressor(student.features["hidden"]) - teacher.features["hidden"]
        return {"hint": apart.square().mean()}


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
    bare, tapped, objective = network(1), network(1), HintonKD(temperature=4.0, soft_weight=0.9)
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
        history = fit(Taps(student, {"hidden": "2"}), Hints(), teacher=frozen, **options)
        assert snapshot(teacher) == before
        assert hooks(student) + hooks(teacher) == 0
        curves.append(history.curves["loss/hint"])
    assert curves[0] == pytest.approx(curves[1], rel=1e-6)
    assert curves[0][-1] < curves[0][0]
