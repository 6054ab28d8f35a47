"""One training of an experiment, and what it scored; a training that is done is not done again."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.classes import TISSUE_LABELS
from dermatome.metrics.semantic import class_scores, score_values
from dermatome.skin.tiles.crops import TilePair, tiles_sha256
from dermatome.skin.tissue.evaluate import Evaluation, evaluate
from dermatome.skin.tissue.tile_probabilities import tile_probabilities
from dermatome.skin.tissue.train import CHECKPOINT_FILE, EpochReport, train
from dermatome.storage.files import sha256_bytes, write_atomic
from dermatome.training.settings import TrainSettings
from dermatome.training.weights import WeightsCard, load_weights, save_weights
from pipelines_tests.experiments.plans import Tiles

if TYPE_CHECKING:
    import torch

    from dermatome.inference.compute import Compute

RESULT_FILE = "result.json"


def run_one(tiles: Tiles, settings: TrainSettings, compute: Compute, folder: Path) -> dict[str, Any]:
    """Trains once and scores all test sets; a killed one goes on, and one that is done is read from ``folder``.

    Returns:
        ``settings``, ``steps``, ``seconds``, ``history`` with the scores of each epoch on the first test set, of the
        running mean of the weights and, with ``plain_`` before their names, of the weights themselves; ``tests`` with
        the scores of each test set by name.
    """
    everything = [*tiles.train, *(tile for test in tiles.tests.values() for tile in test)]
    told = json.dumps([asdict(settings), tiles_sha256(everything)], sort_keys=True)
    fingerprint, result_file = sha256_bytes(told.encode()), folder / RESULT_FILE
    if result_file.is_file():
        done: dict[str, Any] = json.loads(result_file.read_text())
        if done["fingerprint"] == fingerprint:
            return done
    first = next(iter(tiles.tests.values()))
    plain: dict[str, dict[str, float | None]] = {}
    if (folder / "plain.json").is_file():
        plain = json.loads((folder / "plain.json").read_text())

    def score_plain(epoch: EpochReport) -> None:
        network = _network_of(folder / CHECKPOINT_FILE, settings)
        scores = _values(_evaluate(network, first, settings, compute))
        plain[str(epoch.epoch)] = {f"plain_{name}": value for name, value in scores.items()}
        write_atomic(folder / "plain.json", json.dumps(plain).encode())

    result = train(tiles.train, list(first), settings, compute, folder, score_plain)
    save_weights(folder / "weights.safetensors", result.state, result.card)
    network = load_weights(folder / "weights.safetensors").network
    done = {
        "fingerprint": fingerprint,
        "settings": asdict(settings),
        "steps": result.card.steps,
        "seconds": float(result.history["seconds"].iloc[-1]),
        "history": [{**row, **plain[str(row["epoch"])]} for row in result.history.to_dict("records")],
        "tests": {
            name: _values(
                result.evaluation if test is first else _evaluate(network, test, settings, compute, result.card)
            )
            for name, test in tiles.tests.items()
        },
    }
    write_atomic(result_file, json.dumps(done, indent=1).encode())
    (folder / CHECKPOINT_FILE).unlink()
    return done


def _network_of(checkpoint: Path, settings: TrainSettings) -> torch.nn.Module:
    """The network as the last step left it, without the running mean."""
    import torch

    from dermatome.training.unet import build_network

    network = build_network(settings.encoder, len(TISSUE_LABELS), settings.decoder_channels)
    content = torch.load(io.BytesIO(checkpoint.read_bytes()), map_location="cpu", weights_only=True)
    network.load_state_dict(content["network"])
    return network.eval()


def _evaluate(
    network: torch.nn.Module,
    tiles: Sequence[TilePair],
    settings: TrainSettings,
    compute: Compute,
    card: WeightsCard | None = None,
) -> Evaluation:
    from dermatome.training.unet import MEAN, STD

    mean, std = (card.mean, card.std) if card else (MEAN, STD)
    scale = settings.mpp / settings.network_mpp
    run = tile_probabilities(network, compute, mean, std, scale, tile_px=2 * settings.crop_px, batch=settings.batch)
    return evaluate(tiles, run, settings.mpp)


def _values(found: Evaluation) -> dict[str, float | None]:
    return {
        **score_values(class_scores(found.confusion, TISSUE_LABELS)),
        **{f"boundary_f1_{label}": value for label, value in zip(TISSUE_LABELS, found.boundary_f1, strict=True)},
        "calibration_error": found.calibration.error,
    }
