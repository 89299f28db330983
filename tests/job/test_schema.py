"""The keys of a job and their defaults."""

from __future__ import annotations

from lsengine.job.schema import Document


def test_defaults_are_those_of_the_paper(load):
    """Random directions are normalised by filter and leave biases and normalisation alone."""
    document = load().document
    assert document.directions.alpha.normalize == "filter"
    assert document.directions.alpha.ignore == ["bias", "norm"]
    assert (document.name, document.loss, document.precision) == (
        "some",
        "cross_entropy",
        "float32",
    )
    assert load().output == load().source.parent / "surfaces" / "some.h5"


def test_directions_toward_a_checkpoint_are_taken_as_they_are(load, tmp_path):
    """Only random directions are normalised by default."""
    (tmp_path / "other.pt").touch()
    directions = {"alpha": {"kind": "toward", "checkpoint": "other.pt"}}
    alpha = load(directions=directions, grid={"alpha": [0, 1, 3]}).document.directions.alpha
    assert (alpha.normalize, alpha.ignore) == ("none", [])


def test_the_schema_covers_every_key_of_the_document():
    """Editors complete what the loader accepts."""
    schema = Document.model_json_schema()
    assert set(schema["properties"]) == set(Document.model_fields)
