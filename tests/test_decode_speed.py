"""The benchmark of decoding: its ways find the same translations, and it fails where ours is too slow."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
from project_files import ROOT


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("decode_speed", ROOT / "bench" / "decode_speed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses look for the module that they are made in.
    sys.modules["decode_speed"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("width", [1, 5])
def test_all_ways_find_the_same(bench, width) -> None:
    net, sources = bench.Translator(16), bench.some_sentences(12)
    ways = bench.ways_of(net, width, 4)
    assert next(iter(ways)) == bench.ONE
    assert list(ways)[-1] == bench.OURS
    assert len(ways) == 6
    found = {name: [several[0].tokens for several in way(sources)] for name, way in ways.items()}
    assert len({len(tokens) for tokens in found[bench.OURS]}) > 3
    for name, translations in found.items():
        assert translations == found[bench.OURS], name


@pytest.mark.parametrize(
    ("others", "one", "says"),
    [
        (2.5, 1.0, ""),
        (2.5, 1.5, "beam 5: ours is 2.00 times as fast, expected at least 3\n"),
        (3.6, 1.0, "beam 5: batched, sorted is 1.20 times as fast as ours, expected 1.1 at most\n"),
    ],
)
def test_it_fails_where_ours_is_too_slow(bench, others, one, says, monkeypatch, capsys) -> None:
    def measured(ways, sources, chosen):
        rates = dict.fromkeys(ways, 2.5) | {bench.ONE: one, "batched, sorted": others, bench.OURS: 3.0}
        return rates, {name: [] for name in ways}

    monkeypatch.setattr(bench, "measured", measured)
    monkeypatch.setattr(sys, "argv", ["decode_speed.py", "--hidden", "8", "--sentences", "6"])
    assert bench.main() == bool(says)
    out, err = capsys.readouterr()
    assert says in err
    assert bool(err) == bool(says)
    # A column of ratios to one at a time.
    assert f"ours                   3.0 sentences a second {3 / one:6.2f}\n" in out
