"""Trains the small networks that are shipped: ``python -m dermatome.synthetic.train_networks cells --out FILE``.

``cells`` is the cell network of the demo, trained on synthetic skin; ``nuclei`` is the default nucleus network of the
web app and the tests, trained on synthetic fields. Trainer, crops and losses are those of other networks; only the
images are drawn. No pretrained weights and no network connection are needed. The shipped cell network was trained by an
earlier version of this module.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import StainingPattern, TissueClass
from dermatome.geometry import Size
from dermatome.inference.compute import Compute, choose_compute
from dermatome.metrics.instances import match_instances
from dermatome.nuclei.maps.task import AUGMENT, NucleusTask, NucleusTraining
from dermatome.nuclei.patches.cut import make_patches
from dermatome.nuclei.patches.settings import PatchSettings
from dermatome.reports.figures import png_bytes
from dermatome.skin.cells.crops import PreparedCells, prepare_cells
from dermatome.skin.cells.image import PREPARATION
from dermatome.skin.cells.network import CellCard, CellNetwork, build_cpnet, cell_runner
from dermatome.skin.cells.segment import segment_cells
from dermatome.skin.cells.task import CellTraining, cell_parts
from dermatome.slides.plain import decode_rgb
from dermatome.storage.files import write_atomic
from dermatome.synthetic.nuclei import TOY_NUCLEI_MPP, toy_nuclei
from dermatome.synthetic.skin import ToySlide, toy_slide
from dermatome.training.data import Split
from dermatome.training.task import Parts, Task
from dermatome.training.trainer import Trained, train
from dermatome.training.weights import save_weights

if TYPE_CHECKING:
    import torch

    from dermatome.training.encoder_weights import EncoderFile

SKIN_MPP = 0.5
DIAMETER_PX = 16.5  # mean diameter of synthetic nuclei at 0.5 µm per pixel
MARGIN_UM = 12.0
CELLS = CellTraining(
    nbase=(2, 16, 32, 64, 128),
    diameter_px=DIAMETER_PX,
    crop_px=128,
    batch=4,
    learning_rate=2e-3,
    warmup_share=0.1,
    synthetic=True,
)
FIELD_PX = 384
FIRST_FIELD = 2_000_000
"""First seed of the fields to train on; tests and examples use small seeds."""
NUCLEI = NucleusTraining(
    recipe="source",
    encoder="tu-tf_mobilenetv3_small_minimal_100",
    decoder_channels=(96, 64, 48, 32, 16),
    dropout=0.0,
    batch=8,
    crop_px=128,
    epoch_steps=100,
    learning_rate=3e-3,
    weight_decay=1e-2,
    warmup_epochs=2.0,
    augment=AUGMENT.changed(scale=1.1, elastic_px=2.0),
    synthetic=True,
)


@dataclass(frozen=True)
class ToyCells(Task[dict[str, float | None]]):
    """Cells of synthetic slides; see :class:`dermatome.training.task.Task`. A sample is the number of a slide."""

    settings: CellTraining
    split: Split[int]

    best_by = "f1_at_iou_0.5"
    shown = {}
    half = True

    def data_sha256(self) -> str:
        """Synthetic slides follow from their seeds alone."""
        return f"{len(self.split.train)} synthetic slides"

    def build(self, compute: Compute, encoder_file: EncoderFile | None) -> Parts:
        """Builds the network and draws the slides."""
        network = build_cpnet(self.settings.nbase, self.settings.diameter_px)
        rng, patterns = np.random.default_rng(self.settings.seed), list(StainingPattern)
        images = []
        for k in self.split.train:
            strength = float(rng.uniform(0.3, 1.0))
            seed = 1_000_000 * (self.settings.seed + 1) + k
            toy = toy_slide(seed, patterns[k % 4], mpp=SKIN_MPP, strength=strength)
            images.append(prepare_toy(toy, int(rng.integers(75, 97))))
        return cell_parts(network, images, self.settings, compute)

    def validate(self, network: torch.nn.Module, compute: Compute) -> dict[str, float | None]:
        """Nothing is validated before the end of training."""
        return {}

    def evaluate(self, network: torch.nn.Module, compute: Compute) -> dict[str, float | None]:
        """F1 of nuclei at IoU 0.5 on other slides, segmented within the true epidermis: mean and worst slide."""
        runner = cell_runner(network.eval, replace(compute, backend="torch"))
        ready = CellNetwork("in training", "", DIAMETER_PX, DIAMETER_PX * SKIN_MPP, runner, compute)
        scores = []
        for k in self.split.validation:
            toy = toy_slide(1_000_000 * (self.settings.seed + 1) - 1 - k, list(StainingPattern)[k % 4], mpp=SKIN_MPP)
            slide = replace(toy.slide, pixels=decode_rgb(toy.jpeg(), toy.slide.name)[0])
            scores.append(
                match_instances(toy.instances, segment_cells(slide, toy.mask, ready).instances.whole()).f1 or 0.0
            )
        if not scores:
            return {}
        return {"f1_at_iou_0.5": float(np.mean(scores)), "f1_at_iou_0.5_worst_slide": min(scores)}

    def card(self, evaluation: dict[str, float | None], fine_tuned: Any, **common: Any) -> CellCard:
        """The card of the cell network of the demo."""
        return CellCard(
            name="cells_toy",
            nbase=self.settings.nbase,
            diameter_px=self.settings.diameter_px,
            diameter_um=self.settings.diameter_px * SKIN_MPP,
            preparation=PREPARATION,
            trained_on=f"nuclei of {len(self.split.train)} synthetic slides, {SKIN_MPP} µm per pixel",
            scores={name: round(value or 0.0, 4) for name, value in evaluation.items()},
            **common,
        )


def cells_task(settings: CellTraining = CELLS, slides: int = 40, tested: int = 8) -> ToyCells:
    """The task with that many synthetic slides to train on, and others to evaluate on."""
    return ToyCells(settings, Split(tuple(range(slides)), tuple(range(tested)), f"{tested} other synthetic slides"))


def prepare_toy(toy: ToySlide, jpeg_quality: int) -> PreparedCells:
    """Prepares a synthetic slide for training: its epidermis, and the flows of all nuclei in and near it."""
    pixels, _ = decode_rgb(toy.jpeg(jpeg_quality), toy.slide.name)
    dermal = np.where(toy.dermal_nuclei > 0, toy.dermal_nuclei + toy.instances.max(), 0)
    labels = np.where(toy.instances > 0, toy.instances, dermal).astype(np.int32)
    return prepare_cells(pixels, toy.mask == TissueClass.EPIDERMIS, labels, toy.slide.mpp, 1.0, MARGIN_UM)


def nuclei_task(folder: Path, settings: NucleusTraining = NUCLEI, fields: int = 60, tested: int = 4) -> NucleusTask:
    """The task with that many synthetic fields to train on, and others to validate on, as patches in ``folder``."""
    cut = PatchSettings(size_px=FIELD_PX, stride_px=FIELD_PX, least_foreground=0)
    sides = {"train": range(FIRST_FIELD, FIRST_FIELD + fields), "validation": range(FIRST_FIELD - tested, FIRST_FIELD)}
    for side, seeds in sides.items():
        for seed in seeds:
            toy = toy_nuclei(seed, Size(FIELD_PX, FIELD_PX))
            drawn: dict[str, npt.NDArray[Any]] = {
                "images": toy.slide.whole(),
                "instances": toy.maps.instances.astype(np.uint16),
                "classes": toy.maps.semantic,
            }
            for kind, pixels in drawn.items():
                write_atomic(folder / side / kind / f"field-{seed}.png", png_bytes(pixels))
        make_patches(folder / side, folder / f"{side}_patches", cut)
    return NucleusTask.choose([folder / "train_patches"], [folder / "validation_patches"], settings)


def main() -> None:
    """Parses the command line, trains, and writes the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=("cells", "nuclei"))
    parser.add_argument("--out", type=Path, required=True, help="weights file to write (.safetensors), with its card")
    parser.add_argument("--minutes", type=float, default=15.0, help="minutes to train")
    parser.add_argument("--images", type=int, help="number of synthetic images to train on")
    parser.add_argument("--seed", type=int, default=0, help="seed for every random choice")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 uses all free cores")
    parser.add_argument("--checkpoints", type=Path, help="folder from which a killed training resumes")
    given = parser.parse_args()
    limits: dict[str, Any] = {"max_minutes": given.minutes, "seed": given.seed}
    task: Task[Any]
    changes: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        if given.network == "cells":
            task = cells_task(CELLS.changed(**limits), given.images or 40)
        else:
            task = nuclei_task(Path(folder), NUCLEI.changed(mpp=TOY_NUCLEI_MPP, **limits), given.images or 60)
            origin = f"{len(task.split.train)} synthetic fields (dermatome.synthetic.nuclei)"
            changes = {"licence": "MIT", "created_from": (origin,)}
        trained: Trained[Any] = train(
            task,
            choose_compute("auto", "auto", given.threads),
            checkpoint_dir=given.checkpoints,
            on_epoch=lambda row, share: print(f"{share:.0%} done, {task.epoch_text(row)}", flush=True),  # noqa: T201
        )
    sha256 = save_weights(given.out, trained.state, replace(trained.card, **changes), half=True)
    print(f"{given.out}: {trained.card.scores}, sha256 {sha256}")  # noqa: T201


if __name__ == "__main__":
    main()
