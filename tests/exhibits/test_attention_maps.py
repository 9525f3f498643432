"""Tests of the picture of attention maps and of the table of their distances."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from recorded_rows import make_row, write_ledger

from kdrepro import array_texts
from kdrepro.exhibits.attention_maps import distance_table, map_grid, mean_distances, recorded_maps

SIDES = {"group0": 8, "group1": 4, "group2": 2}
NETS = ("teacher", "student alone", "student with maps")


def maps_of(nets=NETS, count: int = 3, sides=SIDES) -> dict[str, dict[str, np.ndarray]]:
    chance = np.random.default_rng(0)
    found: dict[str, dict[str, np.ndarray]] = {}
    for net in nets:
        found[net] = {}
        for depth, side in sides.items():
            values = chance.random((count, side, side))
            found[net][depth] = values / np.linalg.norm(values.reshape(count, -1), axis=1)[:, None, None]
    return found


def images(count: int = 3, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, channels, 8, 8))


def test_the_table_has_the_mean_distance_to_the_teacher_of_each_depth():
    teacher = {"deep": np.array([[[1.0, 0.0]], [[0.0, 1.0]]])}
    student = {"deep": np.array([[[0.0, 1.0]], [[0.0, 1.0]]])}
    maps = {"teacher": teacher, "student": student, "twin": teacher}
    assert mean_distances(maps) == {"student": {"deep": pytest.approx(2**0.5 / 2)}, "twin": {"deep": 0.0}}
    frame = distance_table(maps)
    assert list(frame.columns) == ["Distance to the teacher", "deep"]
    # √2 for the first example, 0 for the second.
    assert frame.values.tolist() == [["student", "0.71"], ["twin", "0"]]


def test_every_net_but_the_first_has_a_row():
    frame = distance_table(maps_of())
    assert frame["Distance to the teacher"].tolist() == list(NETS[1:])
    assert list(frame.columns[1:]) == list(SIDES)


def test_the_grid_shows_each_picture_and_its_maps_at_every_depth():
    maps, pictures = maps_of(), images()
    axes = map_grid(pictures, maps, names={"student with maps": "AT"}).axes
    assert len(axes) == 3 * (1 + len(NETS) * len(SIDES))
    first, second = axes[:10], axes[10:20]
    np.testing.assert_array_equal(first[0].images[0].get_array(), pictures[0, 0])
    shown = [each.images[0].get_array() for each in second[1:]]
    expected = [maps[net][depth][1] for depth in SIDES for net in NETS]
    for one, other in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    titles = [each.get_title().split("\n") for each in first[1:]]
    assert [name for _, name in titles] == ["teacher", "student alone", "AT"] * 3
    assert [depth for depth, _ in titles if depth] == list(SIDES)
    assert all(each.get_title() == "" for each in second)


def test_below_the_students_maps_stands_their_distance():
    maps = maps_of()
    axes = map_grid(images(), maps).axes
    away = np.linalg.norm(maps["student alone"]["group1"][2] - maps["teacher"]["group1"][2])
    # The third picture, the second depth, the second net.
    assert axes[20 + 1 + 3 + 1].get_xlabel() == f"{away:.2f}"
    assert [each.get_xlabel() for each in axes[0::10] + axes[1::10]] == [""] * 6


def test_maps_of_one_picture_and_depth_share_a_scale():
    axes = map_grid(images(), maps_of()).axes
    limits = [each.images[0].get_clim() for each in axes[1:10]]
    for depth in range(3):
        own = limits[3 * depth : 3 * depth + 3]
        assert len(set(own)) == 1
        assert own[0][0] == 0
        shown = [each.images[0].get_array().max() for each in axes[1 + 3 * depth : 4 + 3 * depth]]
        assert own[0][1] == max(shown)


def test_pictures_in_colour_come_out_between_0_and_1():
    picture = map_grid(images(channels=3), maps_of()).axes[0].images[0].get_array()
    assert picture.shape == (8, 8, 3)
    assert (picture.min(), picture.max()) == (0, 1)
    plain = map_grid(np.zeros((3, 3, 8, 8)), maps_of()).axes[0].images[0].get_array()
    assert plain.max() == 0


def test_tensors_are_drawn_too():
    torch = pytest.importorskip("torch")
    maps = {net: {depth: torch.tensor(each) for depth, each in own.items()} for net, own in maps_of().items()}
    assert map_grid(torch.tensor(images()), maps)._repr_png_()[:4] == b"\x89PNG"
    assert distance_table(maps).equals(distance_table(maps_of()))


def test_the_grid_is_on_a_white_card_with_readable_letters():
    chart = map_grid(images(), maps_of())
    assert to_rgb(chart.get_facecolor()) == (1, 1, 1)
    assert min(each.title.get_fontsize() for each in chart.axes) >= 9
    assert min(each.xaxis.label.get_fontsize() for each in chart.axes) >= 9
    assert chart._repr_png_()[:4] == b"\x89PNG"


def without(maps, net, depth):
    return maps | {net: {name: each for name, each in maps[net].items() if name != depth}}


@pytest.mark.parametrize(
    ("pictures", "maps", "says"),
    [
        (images(), maps_of(NETS[:1]), "maps: got 1 nets, expected two at least, the teacher first"),
        (images(), without(maps_of(), "student alone", "group1"), r"maps\['student alone'\]: got the depths"),
        (images(2), maps_of(), "maps: got 3 maps at 'group0', expected 2, one a picture"),
        (images(channels=2), maps_of(), "pictures: got 2 channels, expected 1 or 3"),
        (images()[:, 0], maps_of(), r"pictures: got shape \(3, 8, 8\)"),
        (np.full((3, 1, 8, 8), np.nan), maps_of(), "pictures: got shape .* expected finite numbers"),
        (
            images(),
            maps_of() | {"small": maps_of(["small"], sides=SIDES | {"group2": 3})["small"]},
            r"maps\['small'\]\['group2'\]: got shape \(3, 3, 3\), expected \(3, 2, 2\) like those of 'teacher'",
        ),
        (
            images(),
            maps_of() | {"flat": {depth: np.ones((3, 4)) for depth in SIDES}},
            r"maps\['flat'\]\['group0'\]: got shape \(3, 4\), expected finite numbers in 3 dimensions",
        ),
    ],
)
def test_what_does_not_fit_is_named(pictures, maps, says):
    with pytest.raises(ValueError, match=says):
        map_grid(pictures, maps)


# Recorded ones.


def kept(arm: str, seed: int, **more: list[str]):
    maps = {f"map {depth}": array_texts.written(own) for depth, own in maps_of((arm,))[arm].items()}
    recipe = {"recipe": "attention_transfer", "protocol": "reduced"}
    return make_row(arm, seed, samples=maps | more, **recipe)


def test_recorded_maps_are_those_of_the_first_seed_whose_rows_have_all_of_them(tmp_path):
    picture = array_texts.written(images(channels=3))
    arms = ["teacher_wrn16_2", "at"]
    rows = [
        kept("teacher_wrn16_2", 0, picture=picture),
        kept("teacher_wrn16_2", 1, picture=picture),
        kept("at", 1),
    ]
    found = recorded_maps(write_ledger(tmp_path, rows), arms)
    assert found is not None
    pictures, maps = found
    np.testing.assert_allclose(pictures, images(channels=3), atol=0.05)
    assert list(maps) == arms
    for depth, own in maps_of(("at",))["at"].items():
        np.testing.assert_allclose(maps["at"][depth], own, atol=0.01)
        np.testing.assert_allclose(np.linalg.norm(maps["at"][depth].reshape(3, -1), axis=1), 1.0)
    assert len(map_grid(pictures, maps).axes) == 3 * (1 + 2 * len(SIDES))
    assert recorded_maps(write_ledger(tmp_path / "other", rows[:2]), arms) is None
    assert (
        recorded_maps(write_ledger(tmp_path / "bare", [kept("teacher_wrn16_2", 0), kept("at", 0)]), arms)
        is None
    )
