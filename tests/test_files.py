"""Files are written whole or not at all: whatever happens while one is written, the last good one stays."""

from __future__ import annotations

import os
import stat

import pytest

from kdrepro import files


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "kept.txt"
    file.write_text("before")
    return file


def test_what_is_written_takes_the_name_and_nothing_lies_beside_it(file):
    with files.whole(file) as beside:
        beside.write_text("after")
        assert file.read_text() == "before"
    assert [each.name for each in file.parent.iterdir()] == ["kept.txt"]
    assert file.read_text() == "after"


def test_folders_are_made_and_a_new_file_is_as_public_as_any_other(tmp_path):
    file, other = tmp_path / "new" / "folder" / "one.txt", tmp_path / "other.txt"
    other.touch()
    with files.whole(file) as beside:
        beside.write_text("one")
    assert file.read_text() == "one"
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("odd"), OSError(28, "No space left")])
def test_an_error_passes_as_it_is_and_leaves_what_was_there(error, file):
    def write() -> None:
        with files.whole(file) as beside:
            beside.write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error
    assert [each.read_text() for each in file.parent.iterdir()] == ["before"]


def test_where_nothing_was_written_what_was_there_stays(file):
    with pytest.raises(FileNotFoundError), files.whole(file):
        pass
    assert [each.read_text() for each in file.parent.iterdir()] == ["before"]


def test_it_is_on_the_disk_before_it_takes_the_name(file, monkeypatch):
    seen: list[str] = []

    def full(descriptor: int) -> None:
        seen.append(file.read_text())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), files.whole(file) as beside:
        beside.write_text("after")
    assert seen == ["before"]
    assert [each.read_text() for each in file.parent.iterdir()] == ["before"]


def test_two_that_write_one_file_do_not_meet(file):
    with files.whole(file) as one, files.whole(file) as other:
        one.write_text("one")
        other.write_text("other")
    assert [each.read_text() for each in file.parent.iterdir()] == ["one"]


def test_a_name_that_is_taken_stays_where_it_is_asked_to(tmp_path):
    file = tmp_path / "row.json"
    with files.whole(file, over=False) as beside:
        beside.write_text("first")
    with (
        pytest.raises(FileExistsError, match=r"row.json: another process"),
        files.whole(file, over=False) as beside,
    ):
        beside.write_text("second")
    assert [each.read_text() for each in tmp_path.iterdir()] == ["first"]


def test_a_file_system_without_links_takes_files_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    with files.whole(tmp_path / "row.json", over=False) as beside:
        beside.write_text("row")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("row.json", "row")]


def test_a_folder_that_cannot_be_opened_is_done_without(tmp_path):
    files.sync_folder(tmp_path)
    files.sync_folder(tmp_path / "not there")
