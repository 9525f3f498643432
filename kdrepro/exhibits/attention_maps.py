"""Where nets look: their attention maps beside the picture, and how far apart the maps of two nets are.

Maps come as arrays, so nothing here needs the library that trains. White cards and colours as in `kdrepro.plots`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.gridspec import GridSpec

from kdrepro import array_texts
from kdrepro.exhibits.charts import GREY, STYLE, Chart, new_chart
from kdrepro.judging.readings import rows_shown
from kdrepro.judging.wording import number
from kdrepro.ledger import Ledger

Maps = Mapping[str, Mapping[str, Any]]


def _array(name: str, value: Any, dimensions: int) -> np.ndarray:
    found = np.asarray(value, dtype=float)
    if found.ndim != dimensions or not found.size or not np.isfinite(found).all():
        raise ValueError(
            f"{name}: got shape {found.shape}, expected finite numbers in {dimensions} dimensions, at least one"
        )
    return found


def _checked(maps: Maps) -> dict[str, dict[str, np.ndarray]]:
    """The maps as arrays (N, H, W), the same depths and shapes for each net."""
    if len(maps) < 2:
        raise ValueError(f"maps: got {len(maps)} nets, expected two at least, the teacher first")
    found = {
        net: {depth: _array(f"maps[{net!r}][{depth!r}]", value, 3) for depth, value in own.items()}
        for net, own in maps.items()
    }
    (teacher, first), *others = found.items()
    for net, own in others:
        if list(own) != list(first):
            raise ValueError(
                f"maps[{net!r}]: got the depths {list(own)}, expected {teacher!r}'s {list(first)}"
            )
        for depth, value in own.items():
            if value.shape != first[depth].shape:
                raise ValueError(
                    f"maps[{net!r}][{depth!r}]: got shape {value.shape}, "
                    f"expected {first[depth].shape} like those of {teacher!r}"
                )
    return found


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """‖one − other‖ of each example: (N, H, W) → (N,)."""
    return np.asarray(np.linalg.norm((one - other).reshape(len(one), -1), axis=1))


def mean_distances(maps: Maps) -> dict[str, dict[str, float]]:
    """The mean distance ‖Q_S − Q_T‖ of each net's maps to the first net's, by net and depth.

    `maps` are, by net and by depth, arrays (N, H, W) of length 1, the teacher's first. Maps that are nowhere negative
    are at most √2 apart. Raises `ValueError` for one net only, depths that differ, or shapes that do not fit.
    """
    first, *others = _checked(maps).items()
    return {
        net: {depth: float(_distances(own[depth], first[1][depth]).mean()) for depth in own}
        for net, own in others
    }


def distance_table(maps: Maps) -> pd.DataFrame:
    """The distances of `mean_distances` as a table: a row for each net, a column for each depth."""
    teacher = f"Distance to the {next(iter(maps), 'first')}"
    records = [
        {teacher: net} | {depth: number(away) for depth, away in own.items()}
        for net, own in mean_distances(maps).items()
    ]
    return pd.DataFrame(records)


def _shown(picture: np.ndarray) -> np.ndarray:
    """(C, H, W) in any units → (H, W), or (H, W, 3) from 0 to 1."""
    if picture.shape[0] not in (1, 3):
        raise ValueError(f"pictures: got {picture.shape[0]} channels, expected 1 or 3")
    if picture.shape[0] == 1:
        return np.asarray(picture[0])
    low, high = picture.min(), picture.max()
    return np.asarray((picture.transpose(1, 2, 0) - low) / max(high - low, 1e-12))


def map_grid(pictures: object, maps: Maps, *, names: Mapping[str, str] | None = None) -> Chart:
    """A row for each picture: the picture, then at each depth the maps of all nets side by side.

    `pictures` (N, C, H, W) with one or three channels in any units; `maps` as in `distance_table`. `names` says how a
    net is headed where its own name is too long. Within one picture and depth all maps have one scale; under those of
    the other nets stands their distance ‖Q_S − Q_T‖ to the first net's.

    Raises `ValueError` that names the argument whose shape or value does not fit.
    """
    images, found = _array("pictures", pictures, 4), _checked(maps)
    first = next(iter(found.values()))
    count, depths = len(images), list(first)
    for depth in depths:
        if len(first[depth]) != count:
            raise ValueError(
                f"maps: got {len(first[depth])} maps at {depth!r}, expected {count}, one a picture"
            )
    with matplotlib.rc_context(STYLE):
        chart = new_chart(1.3 + 1.0 * len(found) * len(depths), 0.7 + 1.2 * count)
        # An empty column before each depth keeps the depths apart.
        widths = [1.0, *([0.12, *[1.0] * len(found)] * len(depths))]
        grid = GridSpec(count, len(widths), figure=chart, width_ratios=widths)
        for row in range(count):
            _bare(chart.add_subplot(grid[row, 0])).imshow(_shown(images[row]), cmap="gray_r")
            for place, depth in enumerate(depths):
                scale = max(own[depth][row].max() for own in found.values())
                for column, (net, own) in enumerate(found.items()):
                    axes = _bare(chart.add_subplot(grid[row, place * (len(found) + 1) + 2 + column]))
                    axes.imshow(own[depth][row], cmap="viridis", vmin=0, vmax=scale)
                    if row == 0:
                        head = (names or {}).get(net, net)
                        middle = column == (len(found) - 1) // 2
                        axes.set_title(f"{depth if middle else ''}\n{head}", fontsize=11)
                    if column:
                        away = float(_distances(own[depth][row : row + 1], first[depth][row : row + 1])[0])
                        axes.set_xlabel(f"{away:.2f}", fontsize=10, color=GREY, labelpad=2)
    return chart


def recorded_maps(
    ledger: Ledger, arms: Sequence[str], *, protocol: str = "reduced"
) -> tuple[np.ndarray, dict[str, dict[str, np.ndarray]]] | None:
    """Return the pictures (N, C, H, W) that the first arm's row has kept, and the maps of all arms, by arm and depth.

    Of the first seed whose rows have kept them; `None` if there is none.
    """
    rows = rows_shown(ledger, "attention_transfer", protocol)
    kept = {
        (row.arm, row.seed): row.samples for row in rows if any(key.startswith("map ") for key in row.samples)
    }
    for seed in sorted({seed for _, seed in kept}):
        if all((arm, seed) in kept for arm in arms) and "picture" in kept[arms[0], seed]:
            maps = {
                arm: {
                    key.removeprefix("map "): _of_length_1(array_texts.read(texts))
                    for key, texts in kept[arm, seed].items()
                    if key.startswith("map ")
                }
                for arm in arms
            }
            return array_texts.read(kept[arms[0], seed]["picture"]), maps
    return None


def _of_length_1(maps: np.ndarray) -> np.ndarray:
    """Undo what eight bits have changed of the length."""
    return np.asarray(maps / np.linalg.norm(maps.reshape(len(maps), -1), axis=1)[:, None, None])


def _bare(axes: Axes) -> Axes:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return axes
