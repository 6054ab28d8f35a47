"""One training of an experiment and its scores; a finished training is not repeated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.classes import TISSUE_LABELS
from dermatome.metrics.semantic import score_values
from dermatome.skin.tiles.crops import tiles_sha256
from dermatome.skin.tissue.evaluate import Evaluation
from dermatome.skin.tissue.network import load_tissue_weights
from dermatome.skin.tissue.task import TissueTask, TissueTraining
from dermatome.storage.files import sha256_bytes, write_atomic
from dermatome.training.data import Split
from dermatome.training.trainer import CHECKPOINT_FILE, train
from dermatome.training.weights import save_weights
from pipelines_tests.experiments.plans import Tiles

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute

RESULT_FILE = "result.json"


def run_one(tiles: Tiles, settings: TissueTraining, compute: Compute, folder: Path) -> dict[str, Any]:
    """Trains once and scores all test sets; a killed one goes on, and one that is done is read from ``folder``.

    Returns:
        ``settings``, ``steps``, ``seconds``, ``history`` with the scores of each epoch on the first test set, and
        ``tests`` with the scores of each test set by name.
    """
    everything = [*tiles.train, *(tile for test in tiles.tests.values() for tile in test)]
    told = json.dumps([settings.model_dump(), tiles_sha256(everything)], sort_keys=True)
    fingerprint, result_file = sha256_bytes(told.encode()), folder / RESULT_FILE
    if result_file.is_file():
        done: dict[str, Any] = json.loads(result_file.read_text())
        if done["fingerprint"] == fingerprint:
            return done
    name, first = next(iter(tiles.tests.items()))
    task = TissueTask(settings, Split(tuple(tiles.train), tuple(first), name))
    result = train(task, compute, checkpoint_dir=folder)
    save_weights(folder / "weights.safetensors", result.state, result.card)
    network = load_tissue_weights(folder / "weights.safetensors").network
    others = {
        name: replace(task, split=Split((), tuple(test))).evaluate(network, compute)
        for name, test in tiles.tests.items()
        if test is not first
    }
    done = {
        "fingerprint": fingerprint,
        "settings": settings.model_dump(),
        "steps": result.card.steps,
        "seconds": float(result.history["seconds"].iloc[-1]),
        "history": result.history.to_dict("records"),
        "tests": {test: _values(found) for test, found in {name: result.evaluation, **others}.items()},
    }
    write_atomic(result_file, json.dumps(done, indent=1).encode())
    (folder / CHECKPOINT_FILE).unlink()
    return done


def _values(found: Evaluation) -> dict[str, float | None]:
    return {
        **score_values(found.scores),
        **{f"boundary_f1_{label}": value for label, value in zip(TISSUE_LABELS, found.boundary_f1, strict=True)},
        "calibration_error": found.calibration.error,
    }
