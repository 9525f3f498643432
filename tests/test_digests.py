"""Digests tell tensors apart by all that is in them."""

from __future__ import annotations

import torch
from torch import nn

from kdrepro import digests


def test_a_digest_changes_with_each_thing_that_is_in_it():
    first = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3])}
    others = [
        {"a": first["a"], "c": first["b"]},
        {"a": first["a"], "b": first["b"].int()},
        {"a": first["a"].reshape(2, 1), "b": first["b"]},
        {"a": torch.tensor([1.0, 2.000001]), "b": first["b"]},
        {"a": first["a"]},
    ]
    found = [digests.of_tensors(each) for each in (first, *others)]
    assert len(set(found)) == len(found)
    assert digests.of_tensors({"b": first["b"], "a": first["a"].clone()}) == found[0]


def test_networks_are_known_by_weights_and_buffers_and_an_ensemble_by_its_order():
    nets = [nn.BatchNorm1d(2) for _ in range(2)]
    nets[1].running_mean += 1
    one, other = (digests.of_modules(net) for net in nets)
    assert one != other
    assert digests.of_modules(*nets) != digests.of_modules(*reversed(nets))
    assert digests.of_modules(nets[0], nets[0]) != one


def test_extra_state_and_views_have_a_digest_too():
    class Extra(nn.Linear):
        state = 1

        def get_extra_state(self):
            return {"count": self.state}

        def set_extra_state(self, state):
            self.state = state["count"]

    net = Extra(2, 2)
    before = digests.of_modules(net)
    net.state = 2
    assert digests.of_modules(net) != before
    values = torch.tensor([1 + 2j, 3 - 1j])
    assert digests.of_tensors({"a": values.conj()}) == digests.of_tensors({"a": values.conj().resolve_conj()})
