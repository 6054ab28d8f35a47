"""Trains the demo's small Cellpose network on toy slides: ``python -m dermatome.demo.train_cells --out FILE``.

The network, the augmentation, the targets and the loss are Cellpose's; the input is made by the same function that
segmentation uses. No pretrained weights are needed, so this runs without a network connection.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome import __version__
from dermatome.classes import StainingPattern, TissueClass
from dermatome.compute import Compute, choose_compute
from dermatome.scores_instances import f1_at_iou
from dermatome.skin.cell_image import PREPARATION, cell_image_of
from dermatome.skin.cell_network import CellCard, CellNetwork, build_cpnet, cell_runner, save_cell_network
from dermatome.skin.cells import segment_cells
from dermatome.slide import decode_rgb
from dermatome.toy import ToySlide, toy_slide

MPP = 0.5
DIAMETER_PX = 16.5  # mean of the toys' nuclei at 0.5 mpp
MARGIN_UM = 12.0


@dataclass(frozen=True)
class CellTraining:
    """Settings of the training; the defaults made the shipped file.

    Attributes:
        minutes: of training, the toys' drawing not counted.
        steps: at most so many, whatever the time.
        slides: toy slides drawn to train on.
        batch: crops a step.
        crop_px: their side.
        learning_rate: at its peak, reached after a tenth of the time and falling to nothing.
        nbase: channels of the network's levels.
        seed: of toys, crops and weights.
    """

    minutes: float = 14.0
    steps: int = 100_000
    slides: int = 40
    batch: int = 4
    crop_px: int = 128
    learning_rate: float = 2e-3
    nbase: tuple[int, ...] = (2, 16, 32, 64, 128)
    seed: int = 0


def training_pair(toy: ToySlide, jpeg_quality: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """One toy as (2, H, W) network input and (4, H, W) labels, cell, flow down and flow right, cut to its epidermis."""
    import torch
    from cellpose.dynamics import labels_to_flows

    pixels, _ = decode_rgb(toy.jpeg(jpeg_quality), toy.slide.name)
    epidermis = toy.mask == TissueClass.EPIDERMIS
    image = cell_image_of(pixels, epidermis, toy.slide.mpp, MARGIN_UM)
    crop = image.region
    assert crop is not None
    near, shown = image.near(crop), image.network_input(crop)
    dermal = np.where(toy.dermal_nuclei > 0, toy.dermal_nuclei + toy.instances.max(), 0)
    labels = np.where(toy.instances > 0, toy.instances, dermal)[crop.slices] * near
    flows: npt.NDArray[np.float32] = labels_to_flows([labels.astype(np.int32)], device=torch.device("cpu"))[0]
    return np.stack([shown, np.zeros_like(shown)]), flows.astype(np.float32)


def train(settings: CellTraining, compute: Compute, say: Any = print) -> tuple[Any, dict[str, float]]:
    """Trains a network from scratch.

    Returns:
        Cellpose's ``CPnet`` and figures of the training: steps, seconds and the mean loss of the last 50 steps.
    """
    import torch
    from cellpose.train import _loss_fn_seg
    from cellpose.transforms import random_rotate_and_resize

    rng = np.random.default_rng(settings.seed)
    torch.manual_seed(settings.seed)
    np.random.seed(settings.seed)  # noqa: NPY002 - Cellpose's augmentation draws from numpy's global generator
    started = time.monotonic()
    patterns = list(StainingPattern)
    pairs = []
    for k in range(settings.slides):
        strength = float(rng.uniform(0.3, 1.0))
        toy = toy_slide(1_000_000 * (settings.seed + 1) + k, patterns[k % 4], mpp=MPP, strength=strength)
        pairs.append(training_pair(toy, int(rng.integers(75, 97))))
    say(f"{settings.slides} toy slides drawn in {time.monotonic() - started:.0f} s")

    model = build_cpnet(settings.nbase, DIAMETER_PX).to(compute.torch_device)
    model = model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
    losses: list[float] = []
    limit_s, started = settings.minutes * 60, time.monotonic()
    while len(losses) < settings.steps and (elapsed := time.monotonic() - started) < limit_s:
        done = max(elapsed / limit_s, len(losses) / settings.steps)
        pace = min(1.0, done / 0.1 + 0.02) * (1 + np.cos(np.pi * done)) / 2
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * pace
        chosen = [pairs[i] for i in rng.integers(len(pairs), size=settings.batch)]
        side = settings.crop_px
        starts = [_near_cells(rng, flows[1], side) for _, flows in chosen]
        wide = side + side // 2
        images, flows, _ = random_rotate_and_resize(
            [x[:, r : r + wide, c : c + wide] for (x, _), (r, c) in zip(chosen, starts, strict=True)],
            Y=[y[1:, r : r + wide, c : c + wide] for (_, y), (r, c) in zip(chosen, starts, strict=True)],
            scale_range=0.5,
            xy=(side, side),
        )[:3]
        gain = rng.uniform(0.75, 1.25, (settings.batch, 1, 1, 1)).astype(np.float32)
        noise = 0.03 * rng.standard_normal(images.shape, dtype=np.float32) * (images != 0)
        batch = torch.from_numpy((images * gain + noise).astype(np.float32)).to(compute.torch_device)
        with compute.autocast():
            out = model(batch.contiguous(memory_format=torch.channels_last))[0]
        loss = _loss_fn_seg(flows, out.float(), compute.torch_device)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        losses.append(loss.item())
        if len(losses) % 50 == 0:
            say(f"step {len(losses)}, {elapsed:.0f} of {limit_s:.0f} s, loss {np.mean(losses[-50:]):.3f}")
    figures = {"steps": float(len(losses)), "seconds": time.monotonic() - started, "loss": float(np.mean(losses[-50:]))}
    return model.eval(), figures


def evaluate(model: Any, settings: CellTraining, compute: Compute, per_pattern: int = 2) -> dict[str, float]:
    """F1 of nuclei at IoU 0.5 on fresh toys, as segmentation finds them within the true epidermis: mean and worst."""
    runner = cell_runner(model.eval(), compute, backend="torch")
    network = CellNetwork("in training", "", DIAMETER_PX, DIAMETER_PX * MPP, runner, compute)
    scores = []
    for k in range(4 * per_pattern):
        toy = toy_slide(1_000_000 * (settings.seed + 1) - 1 - k, list(StainingPattern)[k % 4], mpp=MPP)
        slide = replace(toy.slide, pixels=decode_rgb(toy.jpeg(), toy.slide.name)[0])
        scores.append(f1_at_iou(toy.instances, segment_cells(slide, toy.mask, network).instances.whole()) or 0.0)
    return {"f1_at_iou_0.5": float(np.mean(scores)), "f1_at_iou_0.5_worst_slide": min(scores)}


def _near_cells(rng: np.random.Generator, cells: npt.NDArray[np.float32], side: int) -> tuple[int, int]:
    """Top left of a crop around a random pixel of a cell."""
    places = np.flatnonzero(cells > 0.5)
    row, column = divmod(int(places[rng.integers(places.size)]), cells.shape[1])
    top, left = row - int(rng.integers(side)), column - int(rng.integers(side))
    return max(0, min(top, cells.shape[0] - side)), max(0, min(left, cells.shape[1] - side))


def main() -> None:
    """The command line."""
    defaults = CellTraining()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write; its card goes beside")
    parser.add_argument("--minutes", type=float, default=defaults.minutes)
    parser.add_argument("--slides", type=int, default=defaults.slides)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--threads", type=int, default=0, help="0: all free cores")
    given = parser.parse_args()
    compute = choose_compute("auto", "auto", given.threads)
    settings = CellTraining(minutes=given.minutes, slides=given.slides, seed=given.seed)
    model, figures = train(settings, compute, say=lambda text: print(text, flush=True))  # noqa: T201
    write(given.out, model, settings, {**figures, **evaluate(model, settings, compute)})


def write(out: Path, model: Any, settings: CellTraining, scores: dict[str, float]) -> None:
    """Writes the weights and their card, and says their scores and sha256."""
    card = CellCard(
        name="cells_toy",
        nbase=settings.nbase,
        diameter_px=DIAMETER_PX,
        diameter_um=DIAMETER_PX * MPP,
        preparation=PREPARATION,
        trained_on=f"nuclei of {settings.slides} toy slides (dermatome.toy), {MPP} microns per pixel",
        settings={**vars(settings), "nbase": list(settings.nbase)},
        scores={name: round(value, 4) for name, value in scores.items()},
        code_version=__version__,
    )
    sha256 = save_cell_network(out, model, card)
    print(f"{out}: F1 at IoU 0.5 {scores['f1_at_iou_0.5']:.3f}, sha256 {sha256}")  # noqa: T201


if __name__ == "__main__":
    main()
