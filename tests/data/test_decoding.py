"""Image files decoded by several processes."""

from __future__ import annotations

import itertools
import os
import signal
import threading

import numpy as np
import pytest

from lsengine.data import decoding
from lsengine.data.decoding import decoded
from lsengine.errors import EnvironmentUnfit, UsageError

Image = pytest.importorskip("PIL.Image")
COUNT = 70  # more than two chunks for each of two processes


@pytest.fixture
def files(tmp_path):
    """Seventy small images, each of its own colour, the last one with a note."""
    found = [tmp_path / f"{number:03d}.png" for number in range(COUNT)]
    for number, file in enumerate(found[:-1]):
        Image.fromarray(np.full((3, 2, 3), number, np.uint8)).save(file)
    Image.fromarray(np.zeros((3, 2, 4), np.uint8)).save(found[-1])
    return found


@pytest.fixture
def started(monkeypatch):
    """A list of the processes that are started."""
    processes, begin = [], decoding._Worker.__init__

    def noted(worker):
        begin(worker)
        processes.append(worker._process)

    monkeypatch.setattr(decoding._Worker, "__init__", noted)
    return processes


def _all_ended(processes):
    return all(process.poll() is not None for process in processes)


@pytest.mark.parametrize("resize", [None, (2, 2)])
def test_processes_give_what_this_one_gives(files, started, resize):
    """The same pixels and notes in the same order, and no process is left."""
    expected = list(decoded(files, resize))
    assert not started  # so few bytes are not worth any
    found = list(decoded(files, resize, 2))
    assert len(started) == 2
    assert _all_ended(started)
    assert len(found) == COUNT
    for number, ((pixels, notes), (known, said)) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_array_equal(pixels, known)
        assert notes == said
        assert resize is not None or number == COUNT - 1 or pixels[0, 0, 0] == number
    assert found[-1][1] == ["transparent"]


def test_a_bad_image_is_named_and_processes_end(files, started):
    """The message is that of decoding here; what was before it has been given."""
    files[40].write_bytes(b"no image")
    images = decoded(files, None, 2)
    assert len(list(itertools.islice(images, 32))) == 32
    with pytest.raises(UsageError, match=r"040\.png is not a readable image"):
        list(images)
    assert _all_ended(started)


def test_who_gives_up_leaves_no_process(files, started):
    """Closed after the first image, with others under way."""
    before = threading.active_count()
    images = decoded(files, None, 2)
    next(images)
    images.close()
    assert _all_ended(started)
    assert threading.active_count() == before


def test_a_killed_process_is_told(files, started):
    """As the kernel does when memory runs out."""
    images = decoded(files, None, 2)
    next(images)
    for process in started:
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(EnvironmentUnfit, match="has ended with -9; was there too little memory"):
        list(images)


def test_processes_do_not_import_torch(files, tmp_path, monkeypatch):
    """It would take each of them a second and some hundred MiB."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here/torch.py").write_text("raise SystemExit('torch is imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    assert len(list(decoded(files, None, 2))) == COUNT
