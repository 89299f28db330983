"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest

from lsengine import files
from lsengine.errors import EnvironmentUnfit, UsageError


def test_a_file_is_replaced_whole(tmp_path):
    """The new content is there, and nothing beside it."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    files.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert [*tmp_path.iterdir()] == [path]


def test_a_text_that_is_no_utf_8_is_escaped(tmp_path):
    """A name of a file may have any bytes, and a page or a table says it all the same."""
    files.write(tmp_path / "a.txt", "a \udcff \u00e9")
    assert (tmp_path / "a.txt").read_bytes() == rb"a \udcff " + "\u00e9".encode()


def test_a_long_file_of_toml_is_not_parsed(tmp_path):
    """A key of many dots takes the square of its length: 40 KB took 1.4 GiB."""
    path = tmp_path / "a.toml"
    path.write_text("a = {b = 1}\n")
    assert files.read_toml(path) == {"a": {"b": 1}}
    for text, said in (("a." * 20_000 + "b = 1", "16,384 bytes"), ("a = " + "[" * 9999, "deeply")):
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            files.read_toml(path)


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    """The message says why, and what to do; no part is left."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentUnfit, match=r"a\.txt: .*No space left on device; go away"):
        files.write(path, b"new", "go away")
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    """Ctrl-C is no fault of the disk: it goes on upwards."""

    def interrupted():
        with files.whole(tmp_path / "a.txt") as part:
            part.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["a.h5", "*", "[ab].h5", "?.h5"])
def test_only_parts_of_the_same_file_are_removed(tmp_path, name):
    """A name that looks like a pattern, or begins like another name, costs no other file."""
    others = [
        tmp_path / f".{n}.0123abcd.part{e}" for n, e in (("a.h5.b.h5", ".h5"), ("x.h5", ".h5"))
    ]
    others += [tmp_path / name, tmp_path / ".a.h5.kept.part.h5"]
    mine = tmp_path / f".{name}.0123abcd.part{(tmp_path / name).suffix}"
    for path in (*others, mine):
        path.touch()
    files.remove_parts(tmp_path / name)
    assert not mine.exists()
    assert all(path.exists() for path in others)


def test_folders_in_folders_are_made_however_many(tmp_path):
    """Any path that the system takes."""
    folder = tmp_path / "/".join("f" * 1500)
    files.make_folder(folder)
    files.make_folder(folder)
    assert folder.is_dir()
    subprocess.run(["rm", "-rf", tmp_path / "f"], check=True)  # pytest goes too deep


def test_a_folder_that_cannot_be_made_names_the_key(tmp_path):
    """One cause has one exit code, whichever command meets it."""
    (tmp_path / "file").touch()
    with pytest.raises(
        EnvironmentUnfit, match=r"output: .*file/sub cannot be made: Not a directory"
    ):
        files.make_folder(tmp_path / "file" / "sub", "output")


def test_a_file_in_place_of_the_folder_is_told_as_any_other_reason(tmp_path):
    """What cannot be made need not be removed, and that it cannot be hides no message."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentUnfit, match="cannot be written: Not a directory"):
        files.write(tmp_path / "file" / "a", b"content")


def test_one_at_a_time_is_let_in_and_the_others_know(tmp_path, monkeypatch, caplog):
    """The first one has not waited, the second one has."""
    monkeypatch.setattr(files, "_POLL_S", 0.01)
    path, order = tmp_path / "lock", []

    def enter(name):
        with files.locked(path, "the first") as has_waited:
            order.append((name, has_waited))

    other = threading.Thread(target=enter, args=["second"])
    with caplog.at_level("INFO", "lsengine"), files.locked(path, "nobody") as has_waited:
        other.start()
        while "waiting for the first" not in caplog.text and other.is_alive():
            other.join(0.01)
        order.append(("first", has_waited))
    other.join()
    assert order == [("first", False), ("second", True)]


def test_only_a_regular_file_counts_as_one(tmp_path):
    """A link to one counts; nothing there is no error; all else is named."""
    path, link, fifo = tmp_path / "a", tmp_path / "link", tmp_path / "fifo"
    path.touch()
    link.symlink_to(path)
    os.mkfifo(fifo)
    assert files.is_regular(path)
    assert files.is_regular(link)
    assert not files.is_regular(tmp_path / "nothing")
    assert not files.is_regular(path / "below")
    for special, what in ((tmp_path, "a directory"), (fifo, "a FIFO"), ("/dev/null", "a device")):
        with pytest.raises(UsageError, match=f"key: {special} is {what}; expected a file"):
            files.is_regular(type(tmp_path)(special), "key")


@pytest.mark.parametrize("suffix", [".h5", ".png", "", ".html"])
def test_the_longest_name_that_is_allowed_can_be_written(tmp_path, suffix):
    """And what is beside it meanwhile; one byte more is refused before anything is made."""
    most = 255 - len(".") - len(".01234567.part") - len(suffix)
    name = "\u00e9" * ((most - len(suffix)) // 2) + suffix
    name = "x" * (most - len(os.fsencode(name))) + name
    files.write(tmp_path / name, b"content")
    (tmp_path / f"{name}.lock.01234567").touch()
    longer = tmp_path / f"x{name}"
    assert f"a name of {most + 1} bytes; expected at most {most}" in files.misfit(longer)
    with pytest.raises(UsageError, match=f"key: a name of {most + 1} bytes"):
        files.check_target(longer, "key")
    with pytest.raises(UsageError), files.whole(longer):
        pytest.fail("something was made")


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("x" * 256 + "/a.h5", "the name of a folder has 256 bytes; expected at most 255"),
        ("/".join(["x" * 200] * 21), "the path has more than 40"),
        ("a\0b", "no file can have the name 'a"),
        ("\ud800/a", "no file can have the name 'a'"),
        ("/", ""),
        (".", ""),
        ("", ""),
    ],
)
def test_what_no_path_can_be_is_told_from_its_text(path, problem):
    """Folders may still have to be made."""
    found = files.misfit(Path(path))
    assert found.startswith(problem) if problem else not found


def test_only_a_file_or_a_link_to_one_is_a_target(tmp_path):
    """A link is replaced; a device, a FIFO and a folder are not."""
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    (tmp_path / "null").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "fifo")
    for name in ("new", "file", "link", "dangling"):
        files.write(tmp_path / name, b"content" if name != "file" else b"precious")
        assert not (tmp_path / name).is_symlink()
    assert (tmp_path / "file").read_text() == "precious"
    assert not (tmp_path / "gone").exists()
    for name in ("stdout", "null", "fifo", "."):
        with pytest.raises(UsageError, match="expected the name of a file"):
            files.write(tmp_path / name, b"content")
    assert (tmp_path / "stdout").is_symlink()


def test_a_folder_called_like_a_part_stays(tmp_path):
    """It is nobody's part, and no reason to fail."""
    (tmp_path / ".a.h5.01234567.part.h5").mkdir()
    files.remove_parts(tmp_path / "a.h5")
    assert [*tmp_path.iterdir()]


def test_what_is_no_file_has_a_word_for_it(tmp_path):
    """A link, too, wherever it points; a regular file and what is not there have none."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "fifo")
    words = {"link": "a link", "fifo": "a FIFO", ".": "a directory", "file": "", "a\0": ""}
    assert {name: files.special(tmp_path / name) for name in words} == words


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "circle"])
def test_a_name_that_the_system_refuses_is_an_error_of_the_user(tmp_path, name):
    """No traceback for a name too long, a NUL character or a circle of links."""
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(UsageError, match="cannot be looked at"):
        files.is_regular(tmp_path / name)


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "circle", "a\0b", "gone"])
def test_a_name_that_the_system_refuses_is_no_folder(tmp_path, name):
    """What is asked next, whether it is a file, says why."""
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert not files.is_folder(tmp_path / name)
    assert files.is_folder(tmp_path)
