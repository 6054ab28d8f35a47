"""A data root with small toy slides that the real stages measured, without Dagster."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dermatome.geometry import Box
from dermatome.inference.compute import ComputeSettings
from dermatome.labels.geojson import summarise_mask, tissue_features, write_geojson
from dermatome.labels.npz import save_mask
from dermatome.labels.tiled import TiledArray
from dermatome.pipeline.batch import run_batch
from dermatome.pipeline.cached_stage import Stage, WaitingStage, cached_stage
from dermatome.pipeline.stage_files import versions_of
from dermatome.registry.champion import Choice, find_champion, promote
from dermatome.registry.model_kinds import TISSUE
from dermatome.settings import Settings
from dermatome.skin.cells.networks import find_cell_weights
from dermatome.skin.cells.stage import CellsStage
from dermatome.skin.layers.stage import LayersStage
from dermatome.skin.stage_files import MASK_FILE
from dermatome.skin.tissue.network import TissueWeights
from dermatome.skin.tissue.stage import MaskStage
from dermatome.slides.source import SlideSource, acquire_slide
from dermatome.storage.layout import WEIGHTS_FILE, DataRoot
from dermatome.storage.record import StageResult, content_version
from dermatome.synthetic.skin import ToySlide
from dermatome.training.weights import card_path
from pipelines_tests.records import put_record

SETTINGS = Settings(compute=ComputeSettings(device="cpu", precision="fp32", threads=1, backend="torch"))


def run_stage(stage: Stage[Any, Any], slides: list[str], settings: Mapping[str, Any]) -> None:
    """Computes slides; the first error is raised."""
    for one in run_batch(cached_stage(stage, settings, "1", "run"), slides):
        if one.error is not None:
            raise one.error


def put_images(
    root: DataRoot, folder: Path, slides: Mapping[str, ToySlide], sources: Mapping[str, SlideSource]
) -> None:
    """Writes the JPEG of each slide into ``folder`` and makes `slide_images` of it, under its source if it has one."""
    folder.mkdir(exist_ok=True)
    for name, toy in slides.items():
        (folder / f"{name}.jpg").write_bytes(toy.jpeg())

    def make(name: str, into: Path) -> StageResult:
        made = acquire_slide(SlideSource(name, "folder", str(folder / f"{name}.jpg")), into, 0.5, 20_000)
        if name in sources:
            made.values.update({key: value for key, value in vars(sources[name]).items() if key != "slide"})
        return made

    decided = {"images.declared_mpp": 0.5, "images.max_side_px": 20_000}
    run_stage(WaitingStage(root, "slide_images", make), list(slides), decided)


def put_true_masks(root: DataRoot, slides: Mapping[str, ToySlide]) -> None:
    """Makes `epidermis_masks` of what the slides were drawn from."""

    def make(name: str, into: Path) -> StageResult:
        mask = slides[name].mask
        save_mask(into / MASK_FILE, mask, Box(0, 0, *mask.shape))
        outlines = tissue_features(summarise_mask(TiledArray.of(mask)), mpp=slides[name].slide.mpp, slide=name)
        write_geojson(into / "tissue.geojson", outlines)
        return StageResult(
            "tissue", content_version([mask.tobytes()]), {"weights": "truth", "weights_sha256": "0" * 64}
        )

    stage = WaitingStage(root, "epidermis_masks", make, inputs=lambda name: versions_of(root, name, "slide_images"))
    run_stage(stage, list(slides), {})


def put_masks(root: DataRoot, slides: list[str], weights: TissueWeights) -> None:
    """Puts a tissue network into the root as the champion ``v001``, and runs the stage `epidermis_masks` with it."""
    put_record(root, TISSUE.weights, "v001", values={"weights_sha256": weights.sha256})
    kept = root.folder(TISSUE.weights, "v001") / WEIGHTS_FILE
    for path, copy in ((weights.path, kept), (card_path(weights.path), card_path(kept))):
        shutil.copy(path, copy)
    promote(root, TISSUE, Choice("v001", weights.sha256, "hand", None), {}, code_version="1", run_id="run")
    stage = MaskStage(root, find_champion(root, TISSUE), SETTINGS.compute, SETTINGS.tissue)
    run_stage(stage, slides, {"tissue": SETTINGS.tissue.deciding(), "compute.precision": "fp32"})


def put_cells_and_layers(root: DataRoot, slides: list[str]) -> None:
    """Runs the stages `cell_masks`, with the toy network, and `epidermis_layers`."""
    weights = find_cell_weights(root, "toy")
    cells = CellsStage(root, weights, SETTINGS.compute, SETTINGS.cells)
    run_stage(cells, slides, {"cells": SETTINGS.cells.deciding(), "compute.precision": "fp32", "cell_weights": "toy"})
    run_stage(LayersStage(root, SETTINGS.layers), slides, {"layers": SETTINGS.layers.deciding()})
