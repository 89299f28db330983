"""Histories of trainings whose curves are known."""

from __future__ import annotations

import numpy as np

from lsengine.surface.records import History


def make_history(name="small", epochs=40, drops=(20, 30), planned=40, **columns) -> History:
    """Return a history that falls by ten at each drop of the learning rate."""
    epoch = np.arange(epochs + 1)
    rate = 0.1 * 0.1 ** np.sum([epoch > d for d in (*drops, np.inf)], axis=0)
    rate[0] = np.nan
    loss = 2.3 * np.exp(-epoch / 8)
    made = {
        "epoch": epoch,
        "train_loss": loss,
        "train_error": 0.9 * np.exp(-epoch / 5),
        "test_loss": loss + 0.1,
        "test_error": 0.8 * np.exp(-epoch / 5) + 0.1,
        "learning_rate": rate,
        "weight_norm": 10 + epoch / 10,
    }
    norms = np.ones((epochs + 1, 1))
    attributes = {"name": name, "epochs": planned}
    return History(
        columns={**made, **columns},
        parameters=("w",),
        layer_norms=norms,
        attributes=attributes,
        source=f"{name}.h5",
    )
