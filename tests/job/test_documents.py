"""YAML files as plain values: limits, tags, repeated keys, and what is no file."""

from __future__ import annotations

import os
import re
import time

import pytest

from lsengine.errors import JobError
from lsengine.job import documents


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: !!bool maybe", '"maybe" is not of the type bool'),
        ("name: !!timestamp x", '"x" is not of the type timestamp'),
        ("name: 2001-13-45", '"2001-13-45" is not of the type timestamp'),
        ("name: !!int ''", '"" is not of the type int'),
        ("name: !!float '-'", '"-" is not of the type float'),
        ("name: !!int '_'", '"_" is not of the type int'),
        ("name: !!binary 'é'", "failed to convert base64"),
        ("name: !!omap 3", "expected a sequence"),
        ("name: =", "could not determine a constructor"),
        ('name: "\\UFFFFFFFF"', "not valid YAML: "),
        ("x: " + "9" * 401, "is not of the type int"),
        ("x: 1" + ":1" * 200_000, "is not of the type int"),
        ("x: 1" + ":1" * 200_000 + ".5", "is not of the type float"),
        ("? [a]\n: 1", "found unhashable key"),
        ("? 1\n: 1\n? 0x1\n: 2", "key 1 is given twice"),
        ("a: *" + "x" * 5000, "found undefined alias"),
        ("a: &a [*a, *a]", "an alias stands for what it is part of"),
        ("a: " + 300_000 * "[", "nested too deeply"),
        ("a: " + 51 * "[" + 51 * "]", "nested too deeply"),
        ("a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 99)), "nested"),
        ("a: [" + 50_000 * "1," + "]", "has more than 50,000 values"),
        ("%YAML " + 5000 * "9" + ".1\n--- a", "not valid YAML"),
    ],
)
def test_every_wrong_value_is_a_message(text, says):
    """Whatever PyYAML raises: one short line, within seconds."""
    begin = time.process_time()
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        documents.parsed(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    assert time.process_time() - begin < 10


def test_a_merged_mapping_may_be_merged_again():
    """A key of its own wins over that of the merged one, also before it is built."""
    text = "b: &b {x: 2, y: 3}\nu: {v: {a: &a {<<: *b, x: 1}}}\nc: {<<: *a, z: 4}\n"
    value = documents.parsed(text)
    assert value["u"] == {"v": {"a": {"x": 1, "y": 3}}}
    assert value["c"] == {"x": 1, "y": 3, "z": 4}


def test_many_keys_take_linear_time():
    """Ten thousand of them are read in seconds."""
    begin = time.process_time()
    assert len(documents.parsed("".join(f"k{i}: 1\n" for i in range(10_000)))) == 10_000
    assert time.process_time() - begin < 5


def _fifo(path):
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.mkdir(), "is a directory; expected a YAML job file"),
        (_fifo, "is a FIFO; expected a YAML job file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device; expected a YAML job file"),
        (lambda path: path.symlink_to(path), "cannot be looked at: Too many levels"),
        (lambda path: None, 'no such file; "lsengine init" writes a starter job'),
        (lambda path: path.write_bytes(b"\xff"), "cannot be read as text"),
        (lambda path: path.write_text(2**20 * "#" + "#"), "is longer than 1,048,576 bytes"),
    ],
    ids=["folder", "fifo", "device", "circle", "nothing", "bytes", "long"],
)
def test_what_is_no_job_file(tmp_path, make, says):
    """It is not waited for."""
    path = tmp_path / "a.yaml"
    make(path)
    with pytest.raises(JobError) as caught:
        documents.read_mapping(path)
    assert caught.value.source == str(path)
    (problem,) = caught.value.problems
    assert problem.startswith(says)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_names_that_no_file_can_have(tmp_path, name):
    """Too long, and with a character that ends names."""
    with pytest.raises(JobError, match="cannot be looked at"):
        documents.read_mapping(tmp_path / name)
