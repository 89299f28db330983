"""Tiny networks of transformers and adapters of peft, in folders as a training writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from lsengine.external import hugging_face
from lsengine.job.schema import ModelSpec
from lsengine.models import pretrained

VOCABULARY, PLACES = 24, 12
SIZES = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def settings(kind: str, **changes: Any) -> Any:
    """Return the settings of two layers of width 16."""
    library = hugging_face.transformers("a test")
    if kind == "gpt2":
        sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": PLACES}
        return library.GPT2Config(**SIZES | sizes | changes)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "max_position_embeddings": PLACES}
    sizes |= {"intermediate_size": 20, "num_attention_heads": 4}
    if kind == "llama":  # two heads of keys and values for four of queries
        return library.LlamaConfig(**SIZES | sizes | {"num_key_value_heads": 2} | changes)
    return library.BertConfig(**SIZES | sizes | {"num_labels": 3} | changes)


def network(kind: str, seed: int = 0, **changes: Any) -> Any:
    """Return a network whose weights are far enough from 0 for losses to differ."""
    library = hugging_face.transformers("a test")
    task = "SequenceClassification" if kind == "bert" else "CausalLM"
    torch.manual_seed(seed)
    made = getattr(library, f"AutoModelFor{task}").from_config(settings(kind, **changes))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


def folder(path: Path, kind: str, seed: int = 0, **options: Any) -> Any:
    """Write a network with its settings, and return it."""
    made = network(kind, seed)
    with hugging_face.offline():
        made.save_pretrained(path, **options)
    return made


def adapter(path: Path, base: Any, seed: int = 0, **changes: Any) -> Any:
    """Write an adapter of a GPT-2's attention, and return the network that has it."""
    library = hugging_face.peft("a test")
    config = {"r": 2, "lora_alpha": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True}
    torch.manual_seed(seed)
    with hugging_face.offline():
        made = library.get_peft_model(base, library.LoraConfig(**config | changes)).eval()
        for parameter in made.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        made.save_pretrained(path)
    return made


def built(path: Path, arch: str = "AutoModelForCausalLM", **keys: Any) -> Any:
    """Return the network that a job beside the folder describes."""
    spec = ModelSpec(arch=f"transformers:{arch}", path=path.name, **keys)
    return pretrained.build(spec, path.parent)


def changed_settings(path: Path, **changes: Any) -> None:
    """Change the settings in a folder."""
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
