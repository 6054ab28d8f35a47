"""Trains the small network of nuclei on toy fields: ``python -m dermatome.synthetic.train_nuclei --out FILE``.

It is shipped as half floats: the default of the web app and of the tests while there are no other weights.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dermatome.classes import NUCLEUS_LABELS
from dermatome.geometry import Box, Size
from dermatome.inference.compute import choose_compute
from dermatome.nuclei.maps.task import AUGMENT, NucleusTask, NucleusTraining
from dermatome.storage.files import sha256_bytes
from dermatome.synthetic.nuclei import TOY_NUCLEI_MPP, toy_nuclei
from dermatome.training.data import Split
from dermatome.training.trainer import train
from dermatome.training.weights import save_weights

SIZE = Size(384, 384)
FIRST_SEED = 2_000_000
"""Toys are drawn from here on; tests and examples draw theirs from small numbers."""

SETTINGS = NucleusTraining(
    encoder="tu-tf_mobilenetv3_small_minimal_100",
    decoder_channels=(96, 64, 48, 32, 16),
    dropout=0.0,
    batch=8,
    crop_px=128,
    epoch_steps=100,
    learning_rate=3e-3,
    weight_decay=1e-2,
    warmup_epochs=2.0,
    augment=replace(AUGMENT, scale=1.1, elastic_px=2.0),
)


@dataclass(frozen=True)
class ToyPatch:
    """A toy field as a training patch, drawn each time it is read."""

    seed: int
    size: Size = SIZE

    @property
    def name(self) -> str:
        """From its seed."""
        return f"toy-nuclei-{self.seed}"

    @property
    def case(self) -> str:
        """Each is a patient of its own."""
        return self.name

    @property
    def image(self) -> str:
        """Each is an image of its own."""
        return self.name

    @property
    def box(self) -> Box:
        """The complete image."""
        return Box.whole(self.size)

    @property
    def sha256(self) -> str:
        """Of what it is drawn from."""
        return sha256_bytes(f"{self.seed} {self.size}".encode())

    @property
    def semantic_px(self) -> tuple[int, ...]:
        """Pixels of each class."""
        semantic = self.read()[1][..., 0]
        return tuple(np.bincount(semantic.ravel(), minlength=len(NUCLEUS_LABELS)).tolist())

    @property
    def normalised(self) -> bool:
        """Never: it is drawn in the colours that it has."""
        return False

    def instances(self) -> npt.NDArray[np.int32]:
        """Its nuclei by number."""
        return toy_nuclei(self.seed, self.size).maps.instances

    def read(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Its pixels, and its semantic and ternary maps."""
        toy = toy_nuclei(self.seed, self.size)
        return toy.slide.whole(), np.stack([toy.maps.semantic, toy.maps.ternary], axis=-1)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write; its card goes beside")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--fields", type=int, default=60, help="toy fields to train on")
    parser.add_argument("--threads", type=int, default=0, help="0: all free cores")
    parser.add_argument("--checkpoints", type=Path, help="folder for what a run that was killed goes on from")
    given = parser.parse_args()
    patches = tuple(ToyPatch(FIRST_SEED + number) for number in range(given.fields))
    held_out = tuple(ToyPatch(FIRST_SEED - 1 - number) for number in range(4))
    task = NucleusTask(
        replace(SETTINGS, max_minutes=given.minutes, mpp=TOY_NUCLEI_MPP),
        Split(patches, held_out, f"{len(held_out)} other toy fields"),
    )
    trained = train(
        task,
        choose_compute("auto", "auto", given.threads),
        checkpoint_dir=given.checkpoints,
        on_epoch=lambda row, share: print(f"{share:.0%} done, {task.epoch_text(row)}", flush=True),  # noqa: T201
    )
    card = replace(
        trained.card, licence="MIT", created_from=(f"{len(patches)} toy fields (dermatome.synthetic.nuclei)",)
    )
    print(f"{given.out}  sha256 {save_weights(given.out, trained.state, card, half=True)}")  # noqa: T201


if __name__ == "__main__":
    main()
