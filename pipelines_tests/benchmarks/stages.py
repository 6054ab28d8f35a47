"""A stage over a batch of slides, file to file through the batch runner; the baseline is its network alone."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from dermatome.classes import RgbImage
from dermatome.pipeline.batch import run_batch
from dermatome.pipeline.cached_stage import Stage, WaitingStage, cached_stage
from dermatome.skin.cells.settings import CellSettings
from dermatome.skin.tissue.network import TissueWeights
from dermatome.skin.tissue.settings import TissueSettings
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import StageResult
from pipelines_tests.benchmarks.baseline import recorded
from pipelines_tests.benchmarks.timing import take_turns

MPP = 0.5


@dataclass(frozen=True)
class Cost:
    """What a stage took for a batch of slides.

    Attributes:
        seconds: file to file.
        baseline: the same tiles through the network alone, on the same backend and at the same precision.
        tiles: how many.
        backend: of the network.
    """

    seconds: float
    baseline: float
    tiles: int
    backend: str


def measure(stage: Stage[Any, Any], keys: Sequence[str], prepared_in: ModuleType, *, rounds: int) -> Cost:
    """Makes every key ``rounds`` times by a batch whose network was opened before.

    Args:
        stage: whose root has what it reads.
        keys: of slides.
        prepared_in: the module that prepares the stage's network.
        rounds: each with a round of the network alone after it.
    """
    with recorded(prepared_in) as networks:
        stage.open(lambda: None)
        finish(stage, keys, opened=True)
    for network in networks:
        network.keep = False

    def ours() -> None:
        shutil.rmtree(str(stage.root.folder(stage.asset, keys[0]).parent))
        finish(stage, keys, opened=True)

    def baseline() -> None:
        for network in networks:
            network.forward()

    seconds = take_turns({"ours": ours, "baseline": baseline}, rounds=rounds, warm=False)
    tiles = sum(network.tiles for network in networks)
    return Cost(seconds["ours"], seconds["baseline"], tiles, networks[0].backend)


def finish(stage: Stage[Any, Any], keys: Sequence[str], *, opened: bool = False) -> None:
    """Runs a stage over keys; one that fails ends the benchmark.

    Raises:
        Exception: what the first such key failed with.
    """
    work = cached_stage(stage, {}, "1", "benchmark")
    for done in run_batch(replace(work, open=lambda check: None) if opened else work, keys):
        if done.error is not None:
            raise done.error


def put_slides(root: DataRoot, images: Sequence[RgbImage]) -> list[str]:
    """Images as slides of a data root: JPEG files, fetched and verified; returns their ids."""
    from PIL import Image

    from dermatome.slides.source import acquire_slide, inbox_sources

    with tempfile.TemporaryDirectory() as folder:
        inbox = Path(folder)
        for number, pixels in enumerate(images):
            Image.fromarray(pixels).save(inbox / f"slide{number:03d}.jpg", quality=92)
        sources = inbox_sources(inbox)

        def make(key: str, folder: Path) -> StageResult:
            return acquire_slide(sources[key], folder, MPP, 20_000)

        stage = WaitingStage(root, "slide_images", make=make)
        finish(stage, sorted(sources))
    return sorted(sources)


def mask_stage(root: DataRoot, weights: TissueWeights, device: Any) -> Stage[Any, Any]:
    """The stage that makes masks, with ``weights`` as the root's champion, on a device."""
    from dermatome.inference.compute import ComputeSettings
    from dermatome.registry.champion import Weights
    from dermatome.registry.model_kinds import TISSUE
    from dermatome.skin.tissue.stage import MaskStage
    from dermatome.storage.files import write_atomic
    from dermatome.storage.layout import WEIGHTS_FILE

    write_atomic(root.folder("tissue_weights", "v001") / WEIGHTS_FILE, weights.path.read_bytes())
    champion = Weights(root, TISSUE, "v001", weights.sha256, weights.sha256[:32])
    return MaskStage(root, champion, ComputeSettings(device=device), TissueSettings())


def cells_stage(root: DataRoot, device: Any) -> Stage[Any, Any]:
    """The stage that makes cells, by the shipped network, on a device; the root has masks."""
    from dermatome.inference.compute import ComputeSettings
    from dermatome.skin.cells.networks import cell_weights_named
    from dermatome.skin.cells.stage import CellsStage

    return CellsStage(root, cell_weights_named(root, "toy"), ComputeSettings(device=device), CellSettings())
