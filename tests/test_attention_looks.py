"""How far two nets' attention maps are apart, as rows record it."""

import pytest
import torch

from kdrepro.attention_looks import mean_distance


def test_the_distance_is_the_mean_over_the_pictures():
    ours, theirs = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    theirs[0, 0, 0], theirs[0, 2, 3] = 3.0, 4.0
    assert mean_distance(ours, theirs) == mean_distance(theirs, ours) == 2.5
    assert mean_distance(ours, ours) == 0


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 1, 1), (4, 4)])
def test_maps_of_another_shape_are_not_broadcast(shape):
    with pytest.raises(ValueError, match=r"others: got shape .*, expected that of maps, \(2, 4, 4\)"):
        mean_distance(torch.zeros(2, 4, 4), torch.zeros(shape))
