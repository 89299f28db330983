"""Networks of transformers from folders, and adapters of peft."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.external import hugging_face
from lsengine.job.schema import ModelSpec
from lsengine.models import checkpoint, folder_digests
from tests.support import pretrained as tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of networks and adapters, by name."""
    root = tmp_path_factory.mktemp("folders")
    for kind in ("gpt2", "llama", "bert"):
        tiny.folder(root / kind, kind)
    tiny.folder(root / "sharded", "gpt2", max_shard_size="4KB")
    tiny.folder(root / "second", "gpt2", seed=1)
    torch.save(tiny.network("llama").state_dict(), root / "llama.bin")
    tiny.adapter(root / "lora", tiny.network("gpt2"))
    tiny.adapter(root / "lora2", tiny.network("gpt2"), seed=2)
    tiny.adapter(root / "lora_of_r3", tiny.network("gpt2"), r=3)
    tiny.adapter(root / "lora_of_more", tiny.network("gpt2"), target_modules=["c_attn", "c_fc"])
    return root


@pytest.fixture
def tokens():
    """Ids (4, 7) and a mask with padding on the right."""
    ids = torch.randint(0, tiny.VOCABULARY, (4, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:], mask[2, 3:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def _refused(says, call, *arguments, **keys):
    with pytest.raises(UsageError) as caught:
        call(*arguments, **keys)
    message = str(caught.value)
    assert all(part in message for part in says), message


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("gpt2", "AutoModelForCausalLM"),
        ("llama", "LlamaForCausalLM"),
        ("bert", "AutoModelForSequenceClassification"),
        ("sharded", "GPT2LMHeadModel"),
    ],
)
def test_a_folder_gives_what_transformers_gives(folders, tokens, name, arch):
    """Outputs, classes and names are those of from_pretrained, bit for bit; no key is cached."""
    kind = getattr(hugging_face.transformers("a test"), arch)
    with hugging_face.offline():
        theirs = kind.from_pretrained(folders / name).eval()
    ours = tiny.built(folders / name, arch)
    assert type(ours) is type(theirs)
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    output = ours(**tokens)
    assert output.logits.equal(theirs(**tokens).logits)
    assert [*output] == ["logits"]


def test_a_folder_with_a_file_of_torch_is_read_safely(folders, tmp_path, tokens):
    """The file is one of pytorch_model.bin; an object in it is not made."""
    theirs = tiny.folder(tmp_path / "old", "gpt2")
    (tmp_path / "old" / "model.safetensors").unlink()
    state = theirs.state_dict()
    torch.save(state, tmp_path / "old" / "pytorch_model.bin")
    assert tiny.built(tmp_path / "old")(**tokens).logits.equal(theirs(**tokens).logits)
    torch.save(state | {"more": tiny.settings("gpt2")}, tmp_path / "old" / "pytorch_model.bin")
    assert tiny.built(tmp_path / "old")(**tokens).logits.equal(theirs(**tokens).logits)


def test_numbers_keep_the_precision_of_the_folder(tmp_path, tokens):
    """Of float64 nothing is rounded; of bfloat16 all is, once, by who wrote it."""
    wide = tiny.network("gpt2").double()
    wide.save_pretrained(tmp_path / "wide")
    assert tiny.built(tmp_path / "wide")(**tokens).logits.equal(wide(**tokens).logits)
    narrow = tiny.network("gpt2").bfloat16()
    narrow.save_pretrained(tmp_path / "narrow")
    assert tiny.built(tmp_path / "narrow")(**tokens).logits.equal(narrow.float()(**tokens).logits)


def test_names_of_older_files_are_understood(folders, tmp_path, caplog):
    """Buffers of old files, gamma and beta, and the head of another task: as in transformers."""
    state = load_file(folders / "gpt2" / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    old |= {"h.0.attn.bias": torch.ones(1, 1, 12, 12), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(old, tmp_path / "old.safetensors")
    network = tiny.built(folders / "second")
    checkpoint.fit(network, checkpoint.load(tmp_path / "old.safetensors"), key="old")
    assert all(network.state_dict()[name].equal(tensor) for name, tensor in state.items())

    state = load_file(folders / "bert" / "model.safetensors")
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    old = {"cls.seq_relationship.bias": torch.ones(2)}
    for name, tensor in state.items():
        end = ".".join(name.split(".")[-2:])
        old[name.replace(end, names.get(end, end))] = tensor
    assert old.keys() != state.keys() | {"cls.seq_relationship.bias"}
    save_file(old, tmp_path / "bert.safetensors")
    network = tiny.built(folders / "bert", "BertForSequenceClassification")
    with torch.no_grad():
        network.classifier.weight.zero_()
    checkpoint.fit(network, checkpoint.load(tmp_path / "bert.safetensors"), key="old")
    assert all(network.state_dict()[name].equal(tensor) for name, tensor in state.items())
    assert "left out" in caplog.text
    assert "seq_relationship" in caplog.text


def test_an_adapter_is_put_on_and_alone_wants_gradients(folders, tokens):
    """Its outputs are those of peft; not merged, not frozen, while the base is."""
    theirs = tiny.adapter(folders / "again", tiny.network("gpt2"))
    ours = tiny.built(folders / "gpt2", adapter="lora")
    assert ours(**tokens).logits.equal(theirs(**tokens).logits)
    assert not ours(**tokens).logits.equal(tiny.network("gpt2")(**tokens).logits)
    moving = [name for name, p in ours.named_parameters() if p.requires_grad]
    layers = [f"base_model.model.transformer.h.{i}.attn.c_attn" for i in (0, 1)]
    assert moving == [f"{layer}.lora_{ab}.default.weight" for layer in layers for ab in "AB"]


def test_files_of_an_adapter_go_with_the_base(folders, tmp_path, tokens):
    """As peft writes them, and with the adapter's name as in a state dict."""
    theirs = tiny.adapter(tmp_path / "second", tiny.network("gpt2"), seed=2)
    state = theirs.state_dict()
    torch.save({k: v for k, v in state.items() if "lora_" in k}, tmp_path / "lora.pt")
    torch.save(state, tmp_path / "whole.pt")
    for path in (folders / "lora2", tmp_path / "lora.pt", tmp_path / "whole.pt"):
        ours = tiny.built(folders / "gpt2", adapter="lora")
        checkpoint.fit(ours, checkpoint.load(path), key="k")
        assert ours(**tokens).logits.equal(theirs(**tokens).logits), path


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("lora_of_r3", ["of another shape", "lora_A.weight (3x16, in the model 2x16)"]),
        ("lora_of_more", ["unexpected", "mlp.c_fc.lora_A.weight", "of the model's 4 names 4"]),
        ("gpt2", ["missing", "base_layer.weight"]),
    ],
)
def test_what_is_not_of_the_adapter_is_refused(folders, path, says):
    """With what does not fit; a network without an adapter says how it gets one."""
    ours = tiny.built(folders / "gpt2", adapter="lora")
    other = checkpoint.load(folders / path)
    _refused(["model.checkpoint", *says], checkpoint.fit, ours, other, key="model.checkpoint")
    plain = tiny.built(folders / "gpt2")
    lora = checkpoint.load(folders / "lora")
    _refused(["k:", "model.adapter", "merge"], checkpoint.fit, plain, lora, key="k")


@pytest.mark.parametrize(
    ("arch", "keys", "says"),
    [
        ("AutoModelForCausalL", {}, ["model.arch", 'did you mean "AutoModelForCausalLM"']),
        ("pipeline", {}, ["model.arch", "is no class"]),
        ("AutoTokenizer", {}, ["model.arch", "is no network"]),
        ("LlamaForCausalLM", {}, ["model.path", "is of a gpt2"]),
        ("ViTForImageClassification", {}, ["model.path", "is of a gpt2"]),
        ("AutoModelForSequenceClassification", {}, ["model.path", "missing: score.weight"]),
        ("GPT2LMHeadModel", {"args": {"n_layer": 1}}, ["model.path", "unexpected", "h.1."]),
        ("GPT2LMHeadModel", {"args": {"layers": 1}}, ["model.args: layers", "gpt2"]),
        ("GPT2LMHeadModel", {"args": {"dtype": "float64"}}, ["model.args.dtype", "precision"]),
        (
            "GPT2LMHeadModel",
            {"args": {"attn_implementation": "quick"}},
            ["model.arch", "attn_implementation", "sdpa"],
        ),
        ("AutoModelForCausalLM", {"adapter": "of_llama"}, ["model.adapter", "does not fit"]),
    ],
)
def test_what_does_not_go_together_is_refused(folders, tmp_path, arch, keys, says):
    """Names of classes, settings and adapters, with the key."""
    if "adapter" in keys:
        changes = {"target_modules": ["q_proj"], "fan_in_fan_out": False}
        tiny.adapter(folders / "of_llama", tiny.network("llama"), **changes)
    _refused(says, tiny.built, folders / "gpt2", arch, **keys)


def test_code_and_quantised_weights_of_a_folder_are_refused(tmp_path):
    """Nothing in the folder is run, and nobody is asked."""
    tiny.folder(tmp_path / "own", "gpt2")
    (tmp_path / "own" / "own.py").write_text("raise SystemExit('run')")
    auto = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    tiny.changed_settings(tmp_path / "own", model_type="own", auto_map=auto)
    _refused(["model.path", "is not run", "module:factory"], tiny.built, tmp_path / "own")
    tiny.changed_settings(
        tmp_path / "own",
        model_type="gpt2",
        auto_map=None,
        quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True},
    )
    _refused(["model.path", "quantised"], tiny.built, tmp_path / "own")
    (tmp_path / "own" / "config.json").write_text("{")
    _refused(["model.path", "config.json"], tiny.built, tmp_path / "own")


def test_digests_are_of_settings_and_numbers(folders, tmp_path):
    """Either changes one of them; where the folder is does not."""
    tiny.folder(tmp_path / "gpt2", "gpt2")
    spec = ModelSpec(arch="transformers:GPT2LMHeadModel", path="gpt2")
    first = folder_digests(spec, tmp_path)
    assert first == folder_digests(spec, folders)
    assert folder_digests(ModelSpec(arch="mlp"), tmp_path) == {}
    with_adapter = folder_digests(spec.model_copy(update={"adapter": "lora"}), folders)
    assert first.items() < with_adapter.items()
    assert len(with_adapter) == 4
    tiny.changed_settings(tmp_path / "gpt2", layer_norm_epsilon=1e-3)
    second = folder_digests(spec, tmp_path)
    assert [name for name in first if first[name] != second[name]] == ["model.path settings"]
    tiny.folder(tmp_path / "gpt2", "gpt2", seed=1)
    third = folder_digests(spec, tmp_path)
    assert [name for name in first if first[name] != third[name]] == ["model.path"]


@pytest.mark.parametrize(("library", "ask"), [("transformers", "path"), ("peft", "adapter")])
def test_a_missing_library_is_named_with_its_extra(folders, monkeypatch, library, ask):
    """The message says how to install it."""
    monkeypatch.setitem(sys.modules, library, None)
    keys = {"adapter": "lora"} if ask == "adapter" else {}
    with pytest.raises(EnvironmentUnfit, match=rf"model\.{'arch' * (ask == 'path')}.*{library}"):
        tiny.built(folders / "gpt2", **keys)


def test_the_library_is_as_it_was_after_a_folder_is_read(folders):
    """Its way to the network, bars, messages, and warnings."""
    import huggingface_hub
    from transformers.utils import logging

    was = huggingface_hub.constants.HF_HUB_OFFLINE, logging.get_verbosity(), [*warnings.filters]
    tiny.built(folders / "gpt2", adapter="lora")
    now = huggingface_hub.constants.HF_HUB_OFFLINE, logging.get_verbosity(), [*warnings.filters]
    assert was == now
    assert logging.is_progress_bar_enabled()
