"""What checkpoints ask for is compared with what they have, before torch makes it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from lsengine.errors import UsageError
from lsengine.models import checkpoint
from tests.support.pickled import (
    archive,
    call,
    integer,
    legacy,
    mapping,
    row,
    storage,
    tensor,
    text,
)
from tests.support.state_dicts import KEY, assert_same, network, refused, taken

ONE = {"0": bytes(4)}
SPARSE = call("torch.serialization _get_layout", text("torch.sparse_coo"))
SPARSE_PARTS = (tensor(storage("0", 0, "Long"), [1, 0], [1, 1]), tensor(storage("1", 0), [0], [1]))
ATTRIBUTE = b"}" + text("data") + b"K\x01s"
BOMBS = {
    "a tensor larger than its storage": (tensor(storage("0", 1), [10**9], [1]), "is larger than"),
    "a storage larger than its entry": (tensor(storage("0", 10**9), [1], [1]), "fewer bytes"),
    "a storage without an entry": (tensor(storage("9", 1), [1], [1]), "fewer bytes"),
    "a storage of two sizes": (row(storage("0", 1), storage("0", 0)), "two sizes"),
    "a tensor that is elsewhere": (tensor(storage("0", 1), [1], [1], -1), "cannot be"),
    "an expanded tensor": (tensor(storage("0", 1), [10**5, 10**5], [0, 0]), "37.25 GiB"),
    "a sparse tensor": (
        call("torch._utils _rebuild_sparse_tensor", SPARSE,
             row(*SPARSE_PARTS, row(integer(10**5), integer(10**5)))), "37.25 GiB",
    ),
    "bytes from nothing": (call("torch.storage UntypedStorage", integer(10**9)), "it calls"),
    "numbers from nothing": (call("torch FloatTensor", integer(10**9)), "it calls"),
    "a row of bytes": (call("builtins bytearray", integer(10**9)), "damaged"),
    "bytes of bytes": (
        call("_codecs encode", call("_codecs encode", text("a"), text("latin1")), text("hex")),
        "in another way than torch",
    ),
    "a large number of NumPy's": (call("numpy dtype", text("V2000000000")), "NumPy's type V2"),
    "a class of NumPy's types": (call("numpy.dtypes VoidDType", integer(10**9)), "it calls"),
    "a dict's method": (
        call("collections OrderedDict") + b"}" + text("items") + b"K\x05sb", "sets items of"
    ),
    "a tensor's attribute": (
        call("torch._utils _rebuild_parameter_with_state", tensor(storage("0", 1), [1], [1]),
             b"\x89", b"N", ATTRIBUTE), "sets data of a Tensor",
    ),
    "copies of one text": (
        text("A" * 90_000) + b"q\x00" + b"](" + b"".join(
            b"c_codecs\nencode\nh\x00" + text("latin1") + b"\x86R" for _ in range(100)
        ) + b"e", "copy more than is in it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_would_take_too_much_is_refused(tmp_path, bomb):
    """A few hundred bytes ask for gigabytes, or for what is not theirs."""
    pickled, said = BOMBS[bomb]
    records = {**ONE, "1": b""} if "sparse" not in bomb else {"0": b"", "1": b""}
    (tmp_path / "a.pt").write_bytes(archive(mapping(weight=pickled), records))
    refused(tmp_path / "a.pt", f"^{KEY}: .*is not a checkpoint of torch, or damaged.*{said}|{said}")


def test_quantities_of_torch_are_read(tmp_path, state):
    """Whatever torch and NumPy save beside the parameters, in both formats."""
    content = {
        "state_dict": state,
        "numbers": [np.float64(0.5), np.float32(2), np.int64(3), np.bool_(True), np.str_("abc")],
        "time": np.datetime64("2020-01-01"),
        "values": [torch.Size([3, 4]), torch.device("cpu"), {1, "a"}, 3 + 4j, bytearray(b"abc")],
        "more": [b"x\xff", Counter("aab"), torch.float32, ((1,), (2, (3,))), 10**400],
        "sparse": [torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr()],
        "others": [torch.nn.Parameter(torch.ones(2)), torch.ones(1).expand(5)],
        "meta": torch.empty(3, device="meta"),
        "quantised": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    }
    for zipped in (True, False):
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        assert_same(taken(tmp_path / "a.pt"), state)


def test_views_share_their_storage(tmp_path):
    """Parts and turned views of one storage are read as they are, in both formats."""
    whole = torch.arange(12.0).reshape(3, 4)
    saved = {"whole": whole, "turned": whole.T, "row": whole[1], "last": whole[-1, -1]}
    for zipped in (True, False):
        torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        found = checkpoint.load(tmp_path / "a.pt").state
        assert all(torch.equal(found[name], tensor) for name, tensor in saved.items())


LEGACY = {
    "longer storages than the file": ([("0", 10**9)], ["0"], "shorter than its tensors"),
    "a storage that does not come": ([("0", 1)], [], "damaged"),
    "a storage that nobody uses": ([("0", 1)], ["0", "1"], "damaged"),
    "a storage of negative size": ([("0", -1)], ["0"], "damaged"),
}


@pytest.mark.parametrize("case", LEGACY)
def test_old_files_have_what_they_name(tmp_path, case):
    """Before room is made for it."""
    storages, keys, said = LEGACY[case]
    tensors = [tensor(storage(k, n, "Float", b"N"), [1], [1]) for k, n in storages]
    content = legacy(mapping(weight=tensors[0]), keys, [(1, bytes(4))])
    (tmp_path / "a.pt").write_bytes(content)
    refused(tmp_path / "a.pt", said)


def test_a_view_of_an_old_file_is_within_its_storage(tmp_path):
    """As torch wrote it before 0.4."""
    view = text("v") + integer(2) + integer(9) + b"\x87"
    content = mapping(weight=tensor(storage("0", 4, "Float", view), [4], [1]))
    (tmp_path / "a.pt").write_bytes(legacy(content, ["0"], [(4, bytes(16))]))
    refused(tmp_path / "a.pt", "a part of storage 0 is not in it")


def test_nested_tensors_are_named(tmp_path, state):
    """They have no shape."""
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    torch.save({**state, "more": nested}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "it has nested tensors")


def test_indices_of_sparse_tensors_are_checked(tmp_path):
    """Those beyond the tensor would be written elsewhere."""
    sparse = torch.eye(3).to_sparse()
    sparse._indices()[0, 1] = 10**12
    torch.save({"weight": sparse}, tmp_path / "a.pt")
    with pytest.raises(UsageError, match="is not read: it has a damaged sparse tensor"):
        checkpoint.load(tmp_path / "a.pt")


def test_types_without_arithmetic_are_named(tmp_path):
    """A network of theirs cannot be moved."""
    state = network().state_dict()
    halves = torch.zeros(4, 3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    torch.save({**state, "body.0.weight": halves}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", r"holds no plain numbers for body\.0\.weight")
