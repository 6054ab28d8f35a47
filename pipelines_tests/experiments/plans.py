"""The experiments: a question, the configurations that are held against each other, and the tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dermatome.imaging.augmentation import AugmentSettings
from dermatome.skin.tiles.crops import TilePair
from dermatome.skin.tissue.task import TissueTraining

REALDATA = Path(__file__).resolve().parents[3] / "shared" / "realdata"
EPOCH_STEPS = 25
TURNS_ONLY = AugmentSettings(
    scale=1.0, coarse_share=0.0, elastic_px=0.0, stain=0.0, brightness=0.0, blur_px=0.0, noise=0.0
)


@dataclass(frozen=True)
class Tiles:
    """What an experiment trains on, and by name what it is scored on; the first of those is scored each epoch too."""

    train: Sequence[TilePair]
    tests: Mapping[str, Sequence[TilePair]]


@dataclass(frozen=True)
class Experiment:
    """Configurations that differ in one thing.

    Attributes:
        question: that the table answers.
        configurations: by name, with another seed for each repetition.
        tiles: makes or finds the tiles, in a folder for those that are made; ``None`` where they are not there.
        plain_recipe: IoU by class of a recipe that others measured on the same tiles; empty where there is none.
    """

    question: str
    configurations: Mapping[str, TissueTraining]
    tiles: Callable[[Path], Tiles | None]
    plain_recipe: Mapping[str, float]


def experiments(*, toy: bool = False) -> dict[str, Experiment]:
    """All experiments by name; at toy size they show that they run, and measure nothing."""
    skin = TissueTraining(epochs=3, epoch_steps=EPOCH_STEPS, batch=4)
    stain = skin.changed(crop_px=64)
    if toy:
        skin = TissueTraining(epochs=1, epoch_steps=2, batch=2, crop_px=32, decoder_channels=(8, 8, 8, 8, 8))
        stain = skin
    return {
        "skin": Experiment(
            "What do augmentation and resolution bring on real skin?",
            {
                "turns and mirrors only": skin.changed(augment=TURNS_ONLY),
                "all augmentation (the default)": skin,
                "the same at twice the resolution": skin.changed(train_mpp=2 * skin.mpp),
            },
            skin_tiles,
            {"background": 0.85, "dermis": 0.93, "epidermis": 0.82, "keratin": 0.77},
        ),
        "stain": Experiment(
            "Does changing stains in training carry from H&E to IHC?",
            {
                "without stain augmentation": stain.changed(augment=stain.augment.changed(stain=0.0)),
                "with it (the default)": stain,
            },
            lambda folder: stain_tiles(folder, size_px=256 if toy else 512, count=1 if toy else 4),
            {},
        ),
    }


def skin_tiles(_: Path) -> Tiles | None:
    """The PAS tiles of one real slide: eight of one place to train on, six of another to score."""
    from dermatome.labels.palette import Palette

    folder = REALDATA / "skin_pas"
    if not folder.is_dir():
        return None
    palette = Palette.shipped("skin_pas")
    sides: dict[bool, list[TilePair]] = {True: [], False: []}
    for image in sorted((folder / "images").glob("*.jpg")):
        mask = folder / "masks" / image.name.replace("-PAS.", ".").replace(".jpg", ".png")
        left_px = int(image.stem.split("[")[1].split("x")[0])
        sides[left_px < 6000].append(TilePair(image.stem, image, mask, palette, image.stem))
    return Tiles(sides[True], {"another place of the slide": sides[False]})


def stain_tiles(folder: Path, *, size_px: int, count: int) -> Tiles:
    """Toy skin: H&E slides to train on; others in IHC, and the same tissue in H&E, to score."""
    from dermatome.classes import StainingPattern
    from dermatome.synthetic.skin import ToySlide, ToyStain, toy_slide
    from pipelines_tests.toy_tiles import write_tiles

    patterns = list(StainingPattern)

    def drawn(first: int, stain: ToyStain) -> list[ToySlide]:
        return [
            toy_slide(first + number, patterns[number % len(patterns)], size_px=size_px, stain=stain)
            for number in range(count)
        ]

    return Tiles(
        write_tiles(folder / "train", drawn(0, ToyStain.HE)),
        {
            "IHC slides": write_tiles(folder / "ihc", drawn(100, ToyStain.IHC)),
            "H&E slides": write_tiles(folder / "he", drawn(100, ToyStain.HE)),
        },
    )
