"""What a study costs: hours and euros from the processor time of a few slides, checked by the clock on many others."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dermatome.classes import RgbImage
from pipelines_tests.benchmarks.rows import Row, at_most_more, reported
from pipelines_tests.benchmarks.samples import cores, toy_cores

DAGSTER_S = 0.067
"""Processor seconds that Dagster adds to a slide and asset; rows ``dagster_cost``."""
START_S = 10.0
"""Processor seconds from the start of a run to its first slide, and from its last slide to its end."""
RUN_SLIDES, ASSETS = 200, 4
"""Slides of a run, and assets that are computed of each slide: image, mask, cells, layers."""
STUDIES = (600, 20_000, 108_000)
MACHINES = {"2 cores": (2, 0.10), "16 cores": (16, 0.80)}
"""Cores, and euros an hour: what such machines rent for, about. Put in the price of your own."""
WITHIN = 0.2


@dataclass(frozen=True)
class StudyCost:
    """Hours and euros of a study on one machine."""

    hours: float
    euros: float


def study_cost(slides: int, slide_s: float, machine: str) -> StudyCost:
    """The cost of a study whose images are there, without the download, a person's time and storage.

    All cores are taken to be busy, which holds within a run (reading, network and writing overlap), and with more than
    a few cores only if several runs share the machine.

    Args:
        slides: number of slides.
        slide_s: processor seconds of a slide in all stages, without Dagster.
        machine: one of :data:`MACHINES`.
    """
    cores_there, price = MACHINES[machine]
    runs = ASSETS * math.ceil(slides / RUN_SLIDES)
    hours = (slides * (slide_s + ASSETS * DAGSTER_S) + runs * START_S) / cores_there / 3600
    return StudyCost(hours, hours * price)


def study(toy: bool) -> Iterator[Row]:
    """Predicts the time of a batch of slides from ten others, and the cost of studies from whole cores."""
    from dermatome.inference.compute import free_cores
    from dermatome.storage.layout import DataRoot
    from pipelines_tests.benchmarks.stages import finish, put_slides

    images, which = cores(1 if toy else 4, toy)
    few, many = (2, 3) if toy else (10, 190)
    pieces = _pieces(images, few + many)
    with tempfile.TemporaryDirectory() as folder:
        root = DataRoot(Path(folder))
        first, *keys = put_slides(root, [*toy_cores(1, True)[0], *images, *pieces])
        stages = _stages(root)
        for stage in stages:
            stage.open(lambda: None)
        _seconds(stages, first)  # compiles what is compiled at its first use
        core_s = [_seconds(stages, key) for key in keys[: len(images)]]
        piece_s = [_seconds(stages, key) for key in keys[len(images) : -many]]
        start = time.perf_counter()
        for stage in stages:
            finish(stage, keys[-many:], opened=True)
        measured = time.perf_counter() - start
    predicted = sum(piece_s) / few * many / free_cores()
    yield at_most_more(
        f"time of {many} slides, mask to layers, predicted from the processor time of {few} others",
        "measured by the clock, all cores busy",
        abs(predicted / measured - 1) + 1,
        1.0,
        "times",
        more=WITHIN,
        baseline=f"predicted {predicted:.3g} s, measured {measured:.3g} s",
        note=f"quarters of {which}s, {min(piece_s):.3g} to {max(piece_s):.3g} s each",
    )
    for slides in STUDIES:
        for machine, (_, price) in MACHINES.items():
            cost = study_cost(slides, sum(core_s) / len(core_s), machine)
            yield reported(
                f"a study of {slides:,} slides on {machine}", cost.hours, "h",
                note=f"{cost.euros:.3g} € at {price:g} € an hour; {len(core_s)} {which}s, "
                f"{min(core_s):.3g} to {max(core_s):.3g} s each",
            )  # fmt: skip


def _pieces(images: Sequence[RgbImage], count: int) -> list[RgbImage]:
    """Squares of half an image's side at random places, from each image in turn."""
    random, found = np.random.default_rng(0), []
    for number in range(count):
        image = images[number % len(images)]
        side = image.shape[0] // 2
        top, left = random.integers(0, side, 2)
        found.append(image[top : top + side, left : left + side])
    return found


def _stages(root: Any) -> list[Any]:
    from dermatome.inference.compute import ComputeSettings
    from dermatome.skin.layers.settings import LayerSettings
    from dermatome.skin.layers.stage import LayersStage
    from dermatome.skin.tissue.networks import find_tissue_weights
    from dermatome.skin.tissue.settings import TissueSettings
    from dermatome.skin.tissue.stage import MaskStage
    from pipelines_tests.benchmarks.stages import cells_stage

    return [
        MaskStage(root, find_tissue_weights(root), ComputeSettings(device="cpu"), TissueSettings()),
        cells_stage(root, "cpu"),
        LayersStage(root, LayerSettings()),
    ]


def _seconds(stages: Sequence[Any], key: str) -> float:
    """Processor seconds of all threads for a slide in all stages, file to file."""
    from pipelines_tests.benchmarks.stages import finish

    start = time.process_time()
    for stage in stages:
        finish(stage, [key], opened=True)
    return time.process_time() - start
