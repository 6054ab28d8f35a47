"""Tiled inference: a core of 3000 × 3000 px in tiles of 256 that share 64, through a U-Net with a ResNet-34."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines_tests.benchmarks.baseline import Recording
from pipelines_tests.benchmarks.networks import trained_tissue, untrained_tissue
from pipelines_tests.benchmarks.rows import Row, reaches, reported, times_faster, times_the_cost
from pipelines_tests.benchmarks.samples import cores
from pipelines_tests.benchmarks.source_way import tissue_one_by_one
from pipelines_tests.benchmarks.timing import take_turns

if TYPE_CHECKING:
    from dermatome.classes import RgbImage
    from dermatome.inference.backends import Runner
    from dermatome.inference.predictor import Predictor

WHAT = "tiled inference of a 3000² core, 256/64, U-Net ResNet-34"
OVERLAP_PX = 64


def tiled_inference(toy: bool) -> Iterator[Row]:
    """Against the source's way, and against the network alone on the same tiles."""
    from dermatome.errors import BadSetting
    from dermatome.geometry import Size
    from dermatome.imaging.tiling import cut_tile, tile_grid
    from dermatome.inference.backends import prepare_runner
    from dermatome.inference.compute import choose_compute
    from dermatome.inference.int8 import int8_runner, same_class
    from dermatome.inference.predictor import Predictor
    from dermatome.inference.probabilities import Probabilities
    from pipelines_tests.toy_network import labelled

    compute = choose_compute("cpu")
    (core, beside), which = cores(2, toy)
    size, tile_px, batch = Size(*core.shape[:2]), 128 if toy else 256, 2 if toy else 8
    with tempfile.TemporaryDirectory() as folder:
        weights = (
            untrained_tissue(Path(folder), mpp=0.5)
            if toy
            else trained_tissue(
                Path(folder), compute, encoder="resnet34", decoder=(256, 128, 64, 32, 16), train_mpp=0.5, steps=200
            )
        )
    boxes = tile_grid(size, tile_px, OVERLAP_PX)
    middle = np.stack([cut_tile(core, box) for box in boxes[len(boxes) // 2 :][:batch]])
    module = Probabilities(weights.network, weights.card.mean, weights.card.std)
    runner = prepare_runner(module, middle, compute)
    recording = Recording(runner)
    mask, _ = labelled(Predictor(recording, len(weights.card.classes), tile_px, OVERLAP_PX, batch), core)
    predictor = Predictor(runner, len(weights.card.classes), tile_px, OVERLAP_PX, batch)
    every_tile = Predictor(runner, len(weights.card.classes), tile_px, OVERLAP_PX, batch, skip_background=False)
    slow_mask = np.zeros(core.shape[:2], np.uint8)

    def source() -> None:
        slow_mask[:] = tissue_one_by_one(weights, core, tile_px=tile_px, overlap_px=OVERLAP_PX)

    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: labelled(predictor, core),
        "baseline": lambda: recording.forward(),
        "source": source,
        "every tile": lambda: labelled(every_tile, core),
    }
    int8: Runner | None = None
    if not toy:
        with suppress(BadSetting), tempfile.TemporaryDirectory() as folder:  # where this processor multiplies int8
            plain = prepare_runner(module, middle, choose_compute("cpu", "int8"))
            half = beside.shape[0] // 2
            quarters = [beside[top : top + half, left : left + half] for top in (0, half) for left in (0, half)]
            shown = [partial(_show, predictor, quarter) for quarter in quarters]
            int8 = int8_runner(plain, Path(folder) / "int8", shown, same_class([len(weights.card.classes)]))
            ways["int8"] = lambda: labelled(replace(predictor, runner=int8), core)
    seconds = take_turns(ways, rounds=1 if toy else 2, warm=False)
    tiles = (
        f"{which}, {recording.tiles} of {len(boxes)} tiles hold tissue, backend {runner.backend}, {compute.precision}"
    )
    baseline = f"network alone on its tiles: {seconds['baseline']:.3g} s"
    against = "the source's way: one tile at a time, eager fp32, numpy"
    yield times_faster(WHAT, against, seconds["ours"], seconds["source"], at_least=5, baseline=baseline, note=tiles)
    yield reported(
        f"{WHAT}, background tiles run too",
        seconds["every tile"],
        "s",
        against=against,
        reference=seconds["source"],
        baseline=baseline,
        note=f"{seconds['source'] / seconds['every tile']:.3g} × faster",
    )
    yield times_the_cost(
        WHAT,
        "network alone on the same tiles, same backend and precision",
        seconds["ours"],
        seconds["baseline"],
        at_most=1.15,
        baseline=baseline,
        note=tiles,
    )
    yield reaches(
        "share of pixels of the same class as by the source's way",
        100 * float((mask == slow_mask).mean()),
        "%",
        at_least=99.9,
        baseline="–",
        note=f"{which}, weights trained {weights.card.steps} steps on toys",
    )
    if int8 is not None:
        same = float((labelled(replace(predictor, runner=int8), core)[0] == mask).mean())
        yield times_faster(
            f"{WHAT}, precision int8",
            against,
            seconds["int8"],
            seconds["source"],
            at_least=6,
            baseline=baseline,
            note=f"run as {int8.precision} (int8 only if its checks pass); {same:.2%} of the pixels have the class of "
            f"{compute.precision}",
        )


def _show(predictor: Predictor, image: RgbImage, runner: Runner) -> None:
    """Runs a network on an image, as for calibration."""
    from pipelines_tests.toy_network import labelled

    labelled(replace(predictor, runner=runner), image)
