"""Trains the demo's small cell network on toy slides: ``python -m dermatome.synthetic.train_cells --out FILE``.

Trainer, crops and loss are those of other cell networks; only the images are drawn. It needs no pretrained weights and
no network connection. The shipped file was trained by an earlier version of it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dermatome.classes import StainingPattern, TissueClass
from dermatome.inference.compute import Compute, choose_compute
from dermatome.metrics.instances import f1_at_iou
from dermatome.skin.cells.card import CellCard
from dermatome.skin.cells.crops import PreparedCells, prepare_cells
from dermatome.skin.cells.image import PREPARATION
from dermatome.skin.cells.network import CellNetwork, build_cpnet, cell_runner
from dermatome.skin.cells.segment import segment_cells
from dermatome.skin.cells.task import CellTraining, cell_parts
from dermatome.slides.plain import decode_rgb
from dermatome.synthetic.skin import ToySlide, toy_slide
from dermatome.training.data import Split
from dermatome.training.task import Parts, Task
from dermatome.training.trainer import train
from dermatome.training.weights import save_weights

if TYPE_CHECKING:
    import torch

    from dermatome.training.encoder_weights import EncoderFile

MPP = 0.5
DIAMETER_PX = 16.5  # mean of the toys' nuclei at 0.5 mpp
MARGIN_UM = 12.0
SETTINGS = CellTraining(
    nbase=(2, 16, 32, 64, 128), diameter_px=DIAMETER_PX, crop_px=128, batch=4, learning_rate=2e-3, warmup_share=0.1
)


@dataclass(frozen=True)
class ToyCells(Task[dict[str, float | None]]):
    """The cells of toy slides; see :class:`dermatome.training.task.Task`. A sample is the number of a slide."""

    settings: CellTraining
    split: Split[int]

    best_by = "f1_at_iou_0.5"
    shown = {}
    half = True

    def data_sha256(self) -> str:
        """Toys follow from their seeds alone."""
        return f"{len(self.split.train)} toy slides"

    def build(self, compute: Compute, encoder_file: EncoderFile | None) -> Parts:
        """The network and the toys, drawn."""
        network = build_cpnet(self.settings.nbase, self.settings.diameter_px)
        rng, patterns = np.random.default_rng(self.settings.seed), list(StainingPattern)
        images = []
        for k in self.split.train:
            strength = float(rng.uniform(0.3, 1.0))
            seed = 1_000_000 * (self.settings.seed + 1) + k
            toy = toy_slide(seed, patterns[k % 4], mpp=MPP, strength=strength)
            images.append(prepare_toy(toy, int(rng.integers(75, 97))))
        return cell_parts(network, images, self.settings, compute)

    def validate(self, network: torch.nn.Module, compute: Compute) -> dict[str, float | None]:
        """Nothing is validated before the end."""
        return {}

    def evaluate(self, network: torch.nn.Module, compute: Compute) -> dict[str, float | None]:
        """F1 of nuclei at IoU 0.5 on fresh toys, segmented within the true epidermis: mean and worst."""
        runner = cell_runner(network.eval(), replace(compute, backend="torch"))
        ready = CellNetwork("in training", "", DIAMETER_PX, DIAMETER_PX * MPP, runner, compute)
        scores = []
        for k in self.split.validation:
            toy = toy_slide(1_000_000 * (self.settings.seed + 1) - 1 - k, list(StainingPattern)[k % 4], mpp=MPP)
            slide = replace(toy.slide, pixels=decode_rgb(toy.jpeg(), toy.slide.name)[0])
            scores.append(f1_at_iou(toy.instances, segment_cells(slide, toy.mask, ready).instances.whole()) or 0.0)
        if not scores:
            return {}
        return {"f1_at_iou_0.5": float(np.mean(scores)), "f1_at_iou_0.5_worst_slide": min(scores)}

    def card(self, evaluation: dict[str, float | None], fine_tuned: Any, **common: Any) -> CellCard:
        """The card of the demo's cell network."""
        return CellCard(
            name="cells_toy",
            nbase=self.settings.nbase,
            diameter_px=self.settings.diameter_px,
            diameter_um=self.settings.diameter_px * MPP,
            preparation=PREPARATION,
            trained_on=f"nuclei of {len(self.split.train)} toy slides (dermatome.synthetic.skin), {MPP} µm per pixel",
            scores={name: round(value or 0.0, 4) for name, value in evaluation.items()},
            **common,
        )


def toy_cells(settings: CellTraining = SETTINGS, slides: int = 40, tested: int = 8) -> ToyCells:
    """The task of so many toy slides to train on, and others to evaluate on."""
    return ToyCells(settings, Split(tuple(range(slides)), tuple(range(tested)), f"{tested} other toy slides"))


def prepare_toy(toy: ToySlide, jpeg_quality: int) -> PreparedCells:
    """One toy as the network sees it: its epidermis, and the flows of all nuclei in and near it."""
    pixels, _ = decode_rgb(toy.jpeg(jpeg_quality), toy.slide.name)
    dermal = np.where(toy.dermal_nuclei > 0, toy.dermal_nuclei + toy.instances.max(), 0)
    labels = np.where(toy.instances > 0, toy.instances, dermal).astype(np.int32)
    return prepare_cells(pixels, toy.mask == TissueClass.EPIDERMIS, labels, toy.slide.mpp, 1.0, MARGIN_UM)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write; its card goes beside")
    parser.add_argument("--minutes", type=float, default=14.0)
    parser.add_argument("--slides", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: all free cores")
    given = parser.parse_args()
    task = toy_cells(replace(SETTINGS, max_minutes=given.minutes, seed=given.seed), given.slides)
    trained = train(
        task,
        choose_compute("auto", "auto", given.threads),
        on_epoch=lambda row, share: print(f"{share:.0%} done, {task.epoch_text(row)}", flush=True),  # noqa: T201
    )
    sha256 = save_weights(given.out, trained.state, trained.card, half=True)
    print(f"{given.out}: {trained.card.scores}, sha256 {sha256}")  # noqa: T201


if __name__ == "__main__":
    main()
