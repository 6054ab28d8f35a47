"""Trains the demo's small Cellpose network on toy slides: ``python -m dermatome.synthetic.train_cells --out FILE``.

By the loop, the views and the loss that other cell networks are trained with; only the images are drawn. No pretrained
weights are needed, so this runs without a network connection. The shipped file was made by an earlier form of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dermatome import __version__
from dermatome.classes import StainingPattern, TissueClass
from dermatome.inference.compute import Compute, choose_compute
from dermatome.metrics.instances import f1_at_iou
from dermatome.skin.cells.card import CellCard, save_cell_network
from dermatome.skin.cells.image import PREPARATION
from dermatome.skin.cells.network import CellNetwork, build_cpnet, cell_runner
from dermatome.skin.cells.segment import segment_cells
from dermatome.skin.cells.train import CellTrainSettings, cell_parts
from dermatome.skin.cells.views import CellPicture, cell_picture
from dermatome.slides.plain import decode_rgb
from dermatome.synthetic.skin import ToySlide, toy_slide
from dermatome.training.loop import Learnt, Validated, learn
from dermatome.training.state import Parts

if TYPE_CHECKING:
    import torch

MPP = 0.5
DIAMETER_PX = 16.5  # mean of the toys' nuclei at 0.5 mpp
MARGIN_UM = 12.0
SETTINGS = CellTrainSettings(
    nbase=(2, 16, 32, 64, 128), diameter_px=DIAMETER_PX, crop_px=128, batch=4, learning_rate=2e-3, warmup_share=0.1
)


@dataclass(frozen=True)
class ToyCells:
    """The cells of toy slides and how they are learnt; see :class:`dermatome.training.state.TrainingTask`.

    Attributes:
        settings: of the training.
        slides: toy slides drawn to train on.
    """

    settings: CellTrainSettings
    slides: int = 40

    @property
    def data_sha256(self) -> str:
        """Toys follow from their seeds alone."""
        return f"{self.slides} toy slides"

    def build(self, compute: Compute) -> Parts:
        """The network and the toys, drawn."""
        network = build_cpnet(self.settings.nbase, self.settings.diameter_px)
        rng, patterns = np.random.default_rng(self.settings.seed), list(StainingPattern)
        pictures = []
        for k in range(self.slides):
            strength = float(rng.uniform(0.3, 1.0))
            seed = 1_000_000 * (self.settings.seed + 1) + k
            toy = toy_slide(seed, patterns[k % 4], mpp=MPP, strength=strength)
            pictures.append(toy_picture(toy, int(rng.integers(75, 97))))
        return cell_parts(network, pictures, self.settings, compute)


def toy_picture(toy: ToySlide, jpeg_quality: int) -> CellPicture:
    """One toy as the network sees it, its epidermis, and the flows of all nuclei in and near it."""
    pixels, _ = decode_rgb(toy.jpeg(jpeg_quality), toy.slide.name)
    dermal = np.where(toy.dermal_nuclei > 0, toy.dermal_nuclei + toy.instances.max(), 0)
    labels = np.where(toy.instances > 0, toy.instances, dermal).astype(np.int32)
    return cell_picture(pixels, toy.mask == TissueClass.EPIDERMIS, labels, toy.slide.mpp, 1.0, MARGIN_UM)


def train(task: ToyCells, compute: Compute, say: Callable[[str], None] = print) -> Learnt:
    """Trains a network from scratch; nothing is validated on the way."""

    def tell(row: dict[str, Any], share: float) -> None:
        say(f"step {row['step']}, {share:.0%} done, loss {row['train_loss']:.3f}")

    return learn(task, compute, lambda run: Validated(None, {}), on_epoch=tell)


def evaluate(model: torch.nn.Module, seed: int, compute: Compute, per_pattern: int = 2) -> dict[str, float]:
    """F1 of nuclei at IoU 0.5 on fresh toys, as segmentation finds them within the true epidermis: mean and worst."""
    runner = cell_runner(model.eval(), replace(compute, backend="torch"))
    network = CellNetwork("in training", "", DIAMETER_PX, DIAMETER_PX * MPP, runner, compute)
    scores = []
    for k in range(4 * per_pattern):
        toy = toy_slide(1_000_000 * (seed + 1) - 1 - k, list(StainingPattern)[k % 4], mpp=MPP)
        slide = replace(toy.slide, pixels=decode_rgb(toy.jpeg(), toy.slide.name)[0])
        scores.append(f1_at_iou(toy.instances, segment_cells(slide, toy.mask, network).instances.whole()) or 0.0)
    return {"f1_at_iou_0.5": float(np.mean(scores)), "f1_at_iou_0.5_worst_slide": min(scores)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write; its card goes beside")
    parser.add_argument("--minutes", type=float, default=14.0)
    parser.add_argument("--slides", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: all free cores")
    given = parser.parse_args()
    compute = choose_compute("auto", "auto", given.threads)
    task = ToyCells(replace(SETTINGS, max_minutes=given.minutes, seed=given.seed), given.slides)
    learnt = train(task, compute, say=lambda text: print(text, flush=True))  # noqa: T201
    write(given.out, task, learnt, evaluate(learnt.run.mean_network, given.seed, compute))


def write(out: Path, task: ToyCells, learnt: Learnt, scores: dict[str, float]) -> None:
    """Writes the weights and their card, and says their scores and sha256."""
    settings = task.settings
    card = CellCard(
        name="cells_toy",
        nbase=settings.nbase,
        diameter_px=settings.diameter_px,
        diameter_um=settings.diameter_px * MPP,
        preparation=PREPARATION,
        trained_on=f"nuclei of {task.slides} toy slides (dermatome.synthetic.skin), {MPP} microns per pixel",
        settings=json.loads(json.dumps(asdict(settings))),
        scores={name: round(value, 4) for name, value in scores.items()},
        code_version=__version__,
        steps=learnt.run.step,
    )
    sha256 = save_cell_network(out, learnt.state(), card)
    print(f"{out}: F1 at IoU 0.5 {scores['f1_at_iou_0.5']:.3f}, sha256 {sha256}")  # noqa: T201


if __name__ == "__main__":
    main()
