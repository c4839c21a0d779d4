"""Tables of chess endings in the cache folder: made once, and always right, whatever stands there."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from rlhf_lab_chess.geometry import Board
from rlhf_lab_chess.tables import solved

NAME = "KRK-4-1.safetensors"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of the tables, with those of KRK on 4 x 4 in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    again()
    return tmp_path / "rlhf_lab" / "chess"


def again(man="R", side=4):
    """Return tables as another process would find them, past what this one remembers."""
    return solved.__wrapped__(Board(side), man)


def same(one, other):
    assert one.moves.keys() == other.moves.keys()
    assert all(np.array_equal(one.moves[man], other.moves[man]) for man in one.moves)
    assert np.array_equal(one.replies.numbers, other.replies.numbers)
    assert np.array_equal(one.replies.checked, other.replies.checked)
    assert np.array_equal(one.won, other.won)
    assert np.array_equal(one.lost, other.lost)
    assert [x.dtype for x in (one.won, one.lost, one.replies.numbers)] == [np.int8, np.int8, np.int32]


@pytest.fixture(scope="module")
def right():
    """KRK on 4 x 4, made without a file."""
    with tempfile.TemporaryDirectory() as empty, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", empty)
        return again()


def test_tables_are_made_once_per_process(folder):
    assert solved(Board(4), "R") is solved(Board(4), "R")


def test_tables_are_read_back_the_same(folder, right, caplog):
    before = (folder / NAME).stat()
    same(again(), right)
    after = (folder / NAME).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert caplog.messages == []


def test_a_file_is_believed_instead_of_making_tables(folder, monkeypatch):
    def refuse(*_):
        raise AssertionError("made again")

    monkeypatch.setattr("rlhf_lab_chess.tables.distances", refuse)
    again()


def test_a_pawn_s_tables_come_back_with_all_promotions(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = again("P", 5), again("P", 5)
    assert set(first.moves) == {"P", "Q", "R", ""}
    same(first, second)
    assert (tmp_path / "rlhf_lab" / "chess" / "KPK-5-1.safetensors").is_file()


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


UNREADABLE = {
    "truncated": lambda content: content[:-100],
    "truncated in its head": lambda content: content[:100],
    "empty": lambda _: b"",
    "another format": lambda _: b"PK\x03\x04" + bytes(3000),
    "a flipped byte in the length of its head": lambda content: flipped(content, 2),
}
DAMAGED = {
    "a flipped byte in an array": lambda content: flipped(content, len(content) - 5),
    "a flipped byte in its checksum": lambda content: flipped(content, content.index(b'sha256":"') + 20),
    "an array under another name": lambda content: content.replace(b'"won"', b'"wan"'),
}


@pytest.mark.parametrize("damage", [*UNREADABLE, *DAMAGED])
def test_a_damaged_file_is_made_again(folder, right, caplog, damage):
    path = folder / NAME
    sound = path.read_bytes()
    broken = (UNREADABLE | DAMAGED)[damage](sound)
    assert broken != sound
    path.write_bytes(broken)
    same(again(), right)
    (said,) = caplog.messages
    reason = "cannot be read (" if damage in UNREADABLE else "is damaged: its content is not what its checksum says"
    assert said.startswith(f"{path} {reason}")
    assert said.endswith("; its tables are made again")
    caplog.clear()
    same(again(), right)  # from the new file
    assert caplog.messages == []
    assert [x.name for x in folder.iterdir()] == [NAME]


@pytest.mark.parametrize(("man", "side"), [("R", 5), ("Q", 4)])
def test_a_sound_file_of_other_tables_is_made_again(folder, right, caplog, man, side):
    again(man, side)
    shutil.copy(folder / f"K{man}K-{side}-1.safetensors", folder / NAME)
    same(again(), right)
    assert caplog.messages == [f"{folder / NAME} has other arrays than are due; its tables are made again"]
    caplog.clear()
    same(again(), right)
    assert caplog.messages == []


def test_a_file_of_another_layout_is_left_alone(folder, right, caplog):
    other = folder / "KRK-4-0.safetensors"
    (folder / NAME).rename(other)
    other.write_bytes(b"of an older version")
    same(again(), right)
    assert other.read_bytes() == b"of an older version"
    assert caplog.messages == []


def test_a_folder_in_the_file_s_place_is_told(folder, right, caplog):
    (folder / NAME).unlink()
    (folder / NAME).mkdir()
    for _ in range(2):  # said once
        same(again(), right)
    path = folder / NAME
    assert caplog.messages == [f"{path} is a folder where a file with tables of chess endings should stand; remove it"]
    assert [x.name for x in folder.iterdir()] == [NAME]


def unkept(folder, reason):
    return (
        f"tables of chess endings cannot be kept in {folder} ({reason}); every process makes them anew, in seconds. "
        "Make room or let the folder be written, or set XDG_CACHE_HOME to another one"
    )


@pytest.mark.parametrize("parent", ["", "rlhf_lab"])
def test_a_folder_that_cannot_be_made_is_told_once(tmp_path, monkeypatch, right, caplog, parent):
    base = tmp_path / "home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(base))
    blocked = base / parent
    blocked.parent.mkdir(exist_ok=True, parents=True)
    blocked.write_text("a file")
    for _ in range(2):
        same(again(), right)
    again("Q")  # another table in the same folder is no news
    assert caplog.messages == [unkept(base / "rlhf_lab" / "chess", "Not a directory")]
    assert blocked.read_text() == "a file"


def test_a_folder_that_cannot_be_looked_into_is_told_once(tmp_path, monkeypatch, right, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ("x" * 300)))  # a name has 255 bytes at most
    same(again(), right)
    assert caplog.messages == [unkept(tmp_path / ("x" * 300) / "rlhf_lab" / "chess", "File name too long")]


def test_a_full_disk_is_told_and_leaves_nothing(folder, right, caplog, monkeypatch):
    (folder / NAME).unlink()

    class Full:
        """A file that takes a little, and then no more."""

        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            self.file.write(content[:1000])
            raise OSError(errno.ENOSPC, "No space left on device")

    opened = os.fdopen
    monkeypatch.setattr("rlhf_lab.cache.os.fdopen", lambda handle, mode: Full(opened(handle, mode)))
    same(again(), right)
    assert caplog.messages == [unkept(folder, "No space left on device")]
    assert list(folder.iterdir()) == []


MAKES_TABLES = """
import pathlib, sys, time
from rlhf_lab_chess.geometry import Board
from rlhf_lab_chess.tables import solved

pathlib.Path("ready").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.001)
print(solved(Board(5), "R").won.max())
"""


def test_two_processes_at_once_leave_a_sound_file(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    other = subprocess.Popen(
        [sys.executable, "-c", MAKES_TABLES], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "ready").exists() and other.poll() is None:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    # a mate in 10 moves is 19 plies; nothing is warned of
    assert again("R", 5).won.max() == 19
    assert other.communicate(timeout=60) == ("19\n", "")
    folder = tmp_path / "cache" / "rlhf_lab" / "chess"
    assert [x.name for x in folder.iterdir()] == ["KRK-5-1.safetensors"]
    monkeypatch.setattr("rlhf_lab_chess.tables.distances", None)  # not needed: the file is sound
    assert again("R", 5).won.max() == 19
    assert caplog.messages == []


def test_tables_stand_in_the_user_s_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    again()
    assert [x.relative_to(tmp_path) for x in tmp_path.rglob("*.*")] == [Path("rlhf_lab/chess") / NAME]
