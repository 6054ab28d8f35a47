"""Training: whether loading and augmenting crops keeps the network busy."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipelines_tests.benchmarks.rows import Row, share_of_rate
from pipelines_tests.benchmarks.timing import take_turns


def training_loading(toy: bool) -> Iterator[Row]:
    """Steps of the training loop, against the same steps on batches that lie in memory."""
    from dermatome.inference.compute import choose_compute
    from dermatome.skin.tissue.task import TissueTask, TissueTraining
    from dermatome.synthetic.skin import toy_slide
    from dermatome.training.data import Split
    from dermatome.training.distributed import Group
    from dermatome.training.trainer import Run, Start, batches, loading_threads
    from pipelines_tests.toy_tiles import write_tiles

    compute = choose_compute()
    settings = TissueTraining()
    if toy:
        small = "tu-tf_mobilenetv3_small_minimal_100"
        settings = TissueTraining(
            encoder=small, encoder_weights=None, decoder_channels=(8, 8, 8, 8, 8), batch=2, crop_px=32
        )
    steps = 2 if toy else 10
    with tempfile.TemporaryDirectory() as folder:
        slides = (toy_slide(seed, size_px=256 if toy else 640) for seed in range(1 if toy else 4))
        tiles = write_tiles(Path(folder), slides)
        run = Run(TissueTask(settings, Split(tuple(tiles))), Start(""), compute, Group())
    in_memory = itertools.cycle([run.parts.source.batch(number) for number in range(4)])
    made_ahead = batches(run.parts.source, run.batch_numbers(), loading_threads(compute))

    def baseline() -> None:
        for _ in range(steps):
            run.train_step(in_memory, 0.5)

    def loop() -> None:
        for _ in range(steps):
            run.train_step(made_ahead, 0.5)

    seconds = take_turns({"loop": loop, "baseline": baseline}, 1 if toy else 5)
    made_ahead.close()
    images = steps * settings.batch
    yield share_of_rate(
        f"training, crops of {settings.crop_px}² with all augmentation, U-Net {settings.encoder}",
        "the training step alone, on batches in memory",
        images / seconds["loop"],
        images / seconds["baseline"],
        "images/s",
        at_least=0.9,
        baseline=f"{seconds['baseline'] / steps:.3g} s a step of {settings.batch}",
        note=f"{compute.device_name}, {compute.precision}, {compute.threads} threads",
    )
