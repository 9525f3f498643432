"""Where the nets of Zagoruyko & Komodakis (2017) look: their attention maps, and what rows keep of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdrepro import array_texts
from kdrepro.data.examples import Examples
from kdrepro.engine import outputs
from kdrepro.losses.attention import attention_map
from kdrepro.taps import Taps

GROUPS = ("group0", "group1", "group2")
# Rows keep the maps of the first test picture of these classes: aeroplane, bird, cat, dog, horse, ship.
SHOWN = (0, 2, 3, 5, 7, 8)


def attention_maps(
    net: nn.Module, inputs: Tensor, *, device: str = "auto", batch_size: int = 500
) -> dict[str, Tensor]:
    """Return where each group of a net looks: for each input a map of length 1, by group (N, H, W)."""
    tapped = Taps(net, {group: group for group in GROUPS})
    maps: dict[str, list[Tensor]] = {group: [] for group in GROUPS}
    # In parts: the features of ten thousand pictures fill a gigabyte, their maps a hundredth of that.
    for part in torch.split(inputs, batch_size):
        for group, feature in outputs(tapped, part, device=device).features.items():
            maps[group].append(attention_map(feature).reshape(len(feature), *feature.shape[2:]))
    return {group: torch.cat(parts) for group, parts in maps.items()}


def mean_distance(maps: Tensor, others: Tensor) -> float:
    """The mean over the pictures of ‖Q_S − Q_T‖; both (N, H, W), or `ValueError`, as nothing is broadcast."""
    if maps.shape != others.shape:
        raise ValueError(
            f"others: got shape {tuple(others.shape)}, expected that of maps, {tuple(maps.shape)}"
        )
    return float((maps - others).flatten(1).norm(dim=1).mean())


def kept(test: Examples, maps: dict[str, Tensor], *, pictures: bool) -> dict[str, list[str]]:
    """Return the maps of a few test pictures, and these `pictures`, as texts for a row; of digits nothing."""
    if test.inputs.shape[1] != 3:
        return {}
    places = [
        int((test.targets == label).nonzero()[0, 0]) for label in SHOWN if bool((test.targets == label).any())
    ]
    found = {f"map {group}": array_texts.written(own[places].numpy()) for group, own in maps.items()}
    return found | ({"picture": array_texts.written(test.inputs[places].numpy())} if pictures else {})
