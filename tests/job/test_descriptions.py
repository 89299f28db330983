"""Every key of a job says what it means."""

from __future__ import annotations

from lsengine.job.descriptions import DESCRIPTIONS
from lsengine.job.schema import json_schema


def test_every_key_is_described_and_nothing_else():
    """Editors and the reference show a text for each key; none is left of a key that went."""
    schema = json_schema()
    sections = {"Document": schema, **schema["$defs"]}
    keys = {name: set(section["properties"]) for name, section in sections.items()}
    assert {name: set(texts) for name, texts in DESCRIPTIONS.items()} == keys
    for name, section in sections.items():
        for key, content in section["properties"].items():
            assert content["description"] == DESCRIPTIONS[name][key]
