"""Files that lsengine writes for itself: every change of a bit is seen."""

from __future__ import annotations

import pytest
import torch

from lsengine.errors import UsageError
from lsengine.models import sealed

CONTENT = {
    "weights": {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor([1.0, -2.0], dtype=torch.bfloat16),
        "c": torch.tensor(7),
        "d": torch.tensor([1 + 2j]),
        "none": torch.zeros(0, 3),
        "across": torch.arange(6.0).reshape(2, 3).t(),
    },
    "groups": [{"lr": 0.1, "betas": (0.9, 0.99), "fused": None, "nesterov": True}],
    "epoch": 3,
}


def test_what_is_written_is_read(tmp_path):
    """Tensors of every kind, numbers and texts, in their order."""
    sealed.write(tmp_path / "a.pt", CONTENT)
    found = sealed.read(tmp_path / "a.pt", key="x")
    assert list(found) == list(CONTENT)
    assert found["groups"] == CONTENT["groups"]
    for name, tensor in CONTENT["weights"].items():
        assert torch.equal(found["weights"][name], tensor)


def test_a_changed_bit_of_a_number_is_seen(tmp_path):
    """Torch reads such a file without a word."""
    path = tmp_path / "a.pt"
    sealed.write(path, CONTENT)
    content = bytearray(path.read_bytes())
    at = content.index(CONTENT["weights"]["a"].numpy().tobytes())
    content[at + 4] ^= 1
    path.write_bytes(content)
    assert float(torch.load(path)["weights"]["a"][0, 1]) != 1.0
    with pytest.raises(UsageError, match=r"^key: .*a\.pt is damaged: it is not what was written; "):
        sealed.read(path, key="key")


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 4},
        {"epoch": float("nan")},
        {"epoch": "3"},
        {"groups": []},
        {"groups": [{**CONTENT["groups"][0], "betas": [0.9, 0.99, 0.0]}]},
        {"weights": {**CONTENT["weights"], "c": torch.tensor(7.0)}},
        {"weights": {**CONTENT["weights"], "none": torch.zeros(3, 0)}},
        {"weights": dict(reversed(CONTENT["weights"].items()))},
        {"more": 1},
    ],
)
def test_a_changed_entry_is_seen(tmp_path, change):
    """Values, types, shapes, names and what has been added."""
    sealed.write(tmp_path / "a.pt", CONTENT)
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.save({**content, **change}, tmp_path / "a.pt")
    with pytest.raises(UsageError, match="it is not what was written"):
        sealed.read(tmp_path / "a.pt", key="x")


def test_a_file_of_an_earlier_version_is_read_with_a_warning(tmp_path, caplog):
    """It has no digest, so nothing of it can be checked."""
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    assert sealed.read(tmp_path / "a.pt", key="x") == {"epoch": 3}
    assert "a.pt is of an earlier version: it has no digest" in caplog.text


def test_what_is_no_mapping_is_damage(tmp_path):
    """Such as a list of numbers."""
    torch.save([1, 2], tmp_path / "a.pt")
    with pytest.raises(UsageError, match="damaged: it holds a list; remove it"):
        sealed.read(tmp_path / "a.pt", key="x")
