"""Which data a protocol names: all of it, its JPEG copy, what is embedded, or a few of those."""

import pytest

from kdrepro.data import cifar, mnist, pictures


@pytest.mark.parametrize(
    ("name", "protocol", "expected"),
    [
        ("digits", "paper", "mnist"),
        ("digits", "reduced", "mnist"),
        ("cifar10", "paper", "cifar10"),
        ("cifar10", "reduced", "cifar10-jpeg"),
    ],
)
def test_recorded_runs_have_all_of_the_data(monkeypatch, name, protocol, expected):
    for source in (mnist, cifar):
        monkeypatch.setattr(source, "load", lambda wanted: wanted)
    assert getattr(pictures, name)(protocol) == expected


@pytest.mark.parametrize(
    ("protocol", "options", "train", "test"),
    [
        ("quick", {}, 4000, 1000),
        ("smoke", {}, 400, 200),
        ("smoke", {"smoke": (256, 128)}, 256, 128),
        ("quick", {"smoke": (256, 128)}, 4000, 1000),
    ],
)
def test_live_runs_have_the_embedded_digits(protocol, options, train, test):
    data = pictures.digits(protocol, **options)
    assert (len(data.train), len(data.test)) == (train, test)
