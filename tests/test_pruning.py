"""Magnitude pruning against a sort written out, and under training."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD

from kdrepro import Batches, Supervised, fit
from kdrepro.pruning import kept_shares, prune_, remaining_weights


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_the_smallest_of_all_matrices_go_and_the_others_stay(net, share):
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    sizes = sorted(
        abs(value) for name in ("0.weight", "2.weight") for value in before[name].flatten().tolist()
    )
    count = round(share * 180)
    prune_(net, share=share)
    for name, value in net.named_parameters():
        if value.ndim == 1:
            assert torch.equal(value, before[name])
            continue
        for now, then in zip(value.flatten().tolist(), before[name].flatten().tolist(), strict=True):
            assert now == (0.0 if count and abs(then) <= sizes[count - 1] else then)
    assert remaining_weights(net) == 180 - count + 23
    kept = kept_shares(net)
    assert set(kept) == {"0", "2"}
    for part, share_left in kept.items():
        values = before[f"{part}.weight"].flatten().tolist()
        assert share_left == sum(not count or abs(value) > sizes[count - 1] for value in values) / len(values)


def test_equal_weights_do_not_all_go():
    net = nn.Linear(4, 2, bias=False)
    nn.init.constant_(net.weight, 0.5)
    prune_(net, share=0.25)
    assert remaining_weights(net) == 6


def test_what_is_gone_stays_gone_while_the_others_train(net):
    keep = prune_(net, share=0.5)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    batches = Batches(
        torch.randn(64, 6, generator=generator),
        torch.randint(3, (64,), generator=generator),
        batch_size=16,
        seed=0,
    )
    fit(
        net,
        Supervised(),
        batches,
        optimizer=lambda parameters: SGD(parameters, lr=0.1, momentum=0.9),
        epochs=2,
        after_step=keep,
        device="cpu",
    )
    for name in ("0.weight", "2.weight"):
        now = dict(net.named_parameters())[name]
        assert torch.equal(now == 0, before[name] == 0)
        assert (now != before[name])[before[name] != 0].float().mean() > 0.5


def test_a_share_out_of_range_is_refused(net):
    with pytest.raises(ValueError, match=r"share: got 1.5, expected a number in \[0, 1\]"):
        prune_(net, share=1.5)


def test_a_module_without_a_matrix_is_refused():
    with pytest.raises(ValueError, match=r"module: got ReLU without a matrix of weights"):
        prune_(nn.ReLU(), share=0.5)


def test_what_is_kept_is_counted_over_all_matrices_of_a_part():
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1)), nn.Linear(1, 5))
    with torch.no_grad():
        net[0][0].weight.fill_(0.0)
    # Eight of the first part's twelve are 0; vectors do not count.
    assert kept_shares(net) == {"0": pytest.approx(4 / 12), "1": 1.0}


def test_a_wrapper_around_what_was_pruned_is_named():
    net = nn.Linear(3, 3)
    keep = prune_(net, share=0.5)
    with pytest.raises(
        ValueError, match="module: got Sequential without weight, expected the module that was pruned"
    ):
        keep(nn.Sequential(net))


def test_what_is_pruned_is_rounded_to_the_nearest_number_of_weights():
    layer = nn.Linear(3, 1, bias=False)
    prune_(layer, share=0.6)  # 1.8 of three
    assert remaining_weights(layer) == 1
