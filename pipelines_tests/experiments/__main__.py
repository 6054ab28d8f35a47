"""Trainings of several configurations with several seeds each, and a table of their scores."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dermatome.classes import TISSUE_LABELS
from dermatome.imaging.augmentation import AugmentSettings
from dermatome.inference.compute import Compute, choose_compute
from dermatome.metrics.semantic import score_values
from dermatome.skin.tiles.crops import TilePair, tiles_sha256
from dermatome.skin.tissue.evaluate import Evaluation
from dermatome.skin.tissue.network import load_tissue_weights
from dermatome.skin.tissue.networks import STARTER_WEIGHTS
from dermatome.skin.tissue.task import TissueTask, TissueTraining
from dermatome.storage.files import sha256_bytes, write_atomic
from dermatome.training.data import Split
from dermatome.training.encoder_weights import PACKAGED
from dermatome.training.trainer import CHECKPOINT_FILE, train
from dermatome.training.weights import save_weights

if TYPE_CHECKING:
    from dermatome.synthetic.skin import ToySlide

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
        tiles: makes or finds the tiles for a seed, in a folder for those that are made; ``None`` where they are not
            there.
        plain_recipe: IoU by class of a recipe that others measured on the same tiles; empty where there is none.
        starter: whether the starter is fine-tuned.
    """

    question: str
    configurations: Mapping[str, TissueTraining]
    tiles: Callable[[Path, int], Tiles | None]
    plain_recipe: Mapping[str, float]
    starter: bool = False


def experiments(*, toy: bool = False) -> dict[str, Experiment]:
    """All experiments by name; at toy size they show that they run, and measure nothing."""
    skin = TissueTraining(encoder="resnet18", encoder_weights=None, epochs=3, epoch_steps=EPOCH_STEPS, batch=4)
    stain = skin.changed(crop_px=64)
    timed = skin.changed(epochs=None, max_minutes=10.0, batch=8)
    starter = skin.changed(
        epochs=2, epoch_steps=50, mpp=0.35, train_mpp=1.0, encoder="timm-tf_efficientnet_lite0", batch=8
    )
    if toy:
        skin = skin.changed(epochs=1, epoch_steps=2, batch=2, crop_px=32, decoder_channels=(8, 8, 8, 8, 8))
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
        "encoder": Experiment(
            "Does an encoder with ImageNet's weights learn more in ten minutes?",
            {
                "ResNet-18 from scratch": timed,
                "EfficientNet-Lite0 with ImageNet's weights (the default)": timed.changed(
                    encoder=PACKAGED[0], encoder_weights=PACKAGED[1]
                ),
            },
            skin_tiles,
            {"background": 0.787, "dermis": 0.916, "epidermis": 0.832, "keratin": 0.740},
        ),
        **{
            f"starter_{count}": Experiment(
                f"What does fine-tuning the starter on {count} drawn PAS tile{'s' * (count > 1)} bring on the others?",
                {
                    "half of the crops synthetic (the default)": starter.changed(rehearsal=0.5),
                    "the drawn tiles only": starter.changed(rehearsal=0.0),
                },
                partial(drawn_tiles, count=count),
                {},
                starter=True,
            )
            for count in (1, 3, 5)
        },
        "stain": Experiment(
            "Does changing stains in training carry from H&E to IHC?",
            {
                "without stain augmentation": stain.changed(augment=stain.augment.changed(stain=0.0)),
                "with it (the default)": stain,
            },
            lambda folder, _: stain_tiles(folder, size_px=256 if toy else 512, count=1 if toy else 4),
            {},
        ),
        "light": Experiment(
            "How much should training vary the light (I0)?",
            {
                f"brightness {brightness:g}, tint {tint:.2g}": stain.changed(
                    augment=stain.augment.changed(brightness=brightness, tint=tint)
                )
                for brightness, tint in ((0.08, 1 / 3), (0.2, 1 / 3), (0.3, 1.0))
            },
            lambda folder, _: light_tiles(folder, size_px=256 if toy else 512, count=1 if toy else 4),
            {},
        ),
    }


def drawn_tiles(folder: Path, seed: int, *, count: int) -> Tiles | None:
    """``count`` PAS tiles of one real slide to train on, drawn with the seed; all others to score."""
    found = skin_tiles(folder, seed)
    if found is None:
        return None
    tiles = [*found.train, *found.tests["another place of the slide"]]
    order = np.random.default_rng(seed).permutation(len(tiles))
    return Tiles([tiles[k] for k in order[:count]], {"the other tiles of the slide": [tiles[k] for k in order[count:]]})


def skin_tiles(_: Path, seed: int) -> Tiles | None:
    """The PAS tiles of one real slide: eight of one place to train on, six of another to score, for every seed."""
    from dermatome.labels.palette import Palette

    folder = REALDATA / "skin_pas"
    if not folder.is_dir():
        return None
    palette = Palette.shipped("skin_pas")
    sides: dict[bool, list[TilePair]] = {True: [], False: []}
    for image in sorted((folder / "images").glob("*.jpg")):
        mask = folder / "masks" / image.name.replace("-PAS.", ".").replace(".jpg", ".png")
        left_px = int(image.stem.split("[")[1].split("x")[0])
        sides[left_px < 6000].append(TilePair(name=image.stem, image_path=image, mask_path=mask, palette=palette))
    return Tiles(sides[True], {"another place of the slide": sides[False]})


def stain_tiles(folder: Path, *, size_px: int, count: int) -> Tiles:
    """Toy skin: H&E slides to train on; others in IHC, and the same tissue in H&E, to score."""
    from dermatome.classes import StainingPattern
    from dermatome.synthetic.skin import ToyStain, toy_slide
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


def light_tiles(folder: Path, *, size_px: int, count: int) -> Tiles:
    """Toy skin in IHC to train on; other slides to score, as they are and under other lights."""
    from dermatome.classes import StainingPattern
    from dermatome.synthetic.skin import toy_slide
    from pipelines_tests.toy_tiles import write_tiles

    patterns = list(StainingPattern)
    train, test = (
        [toy_slide(first + number, patterns[number % len(patterns)], size_px=size_px) for number in range(count)]
        for first in (0, 100)
    )

    def under(red: float, green: float, blue: float) -> list[ToySlide]:
        return [
            replace(toy, slide=replace(toy.slide, pixels=(toy.slide.whole() * (red, green, blue)).astype(np.uint8)))
            for toy in test
        ]

    lights = {"as they are": (1, 1, 1), "0.8 of the light": (0.8, 0.8, 0.8), "brown light": (0.93, 0.72, 0.61)}
    return Tiles(
        write_tiles(folder / "train", train),
        {name: write_tiles(folder / name.replace(" ", "_"), under(*light)) for name, light in lights.items()},
    )


def run_one(
    tiles: Tiles, settings: TissueTraining, compute: Compute, folder: Path, *, starter: bool = False
) -> dict[str, Any]:
    """Trains once and scores all test sets; a killed one goes on, and one that is done is read from ``folder``.

    Returns:
        ``settings``, ``steps``, ``seconds``, ``history`` with the scores of each epoch on the first test set, and
        ``tests`` with the scores of each test set by name.
    """
    everything = [*tiles.train, *(tile for test in tiles.tests.values() for tile in test)]
    decided = json.dumps([settings.model_dump(), tiles_sha256(everything)], sort_keys=True)
    fingerprint, result_file = sha256_bytes(decided.encode()), folder / "result.json"
    if result_file.is_file():
        done: dict[str, Any] = json.loads(result_file.read_text())
        if done["fingerprint"] == fingerprint:
            return done
    name, first = next(iter(tiles.tests.items()))
    task = TissueTask(settings, Split(tuple(tiles.train), tuple(first), name))
    parent = load_tissue_weights(STARTER_WEIGHTS) if starter else None
    result = train(task, compute, checkpoint_dir=folder, parent=parent, models_folder=folder.parent)
    save_weights(folder / "weights.safetensors", result.state, result.card)
    network = load_tissue_weights(folder / "weights.safetensors").network
    others = {
        name: replace(task, split=Split((), tuple(test))).evaluate(network, compute)
        for name, test in tiles.tests.items()
        if test is not first
    }
    before = {f"{name}, before": task.evaluate(parent.network, compute)} if parent else {}
    done = {
        "fingerprint": fingerprint,
        "settings": settings.model_dump(),
        "steps": result.card.steps,
        "seconds": float(result.history["seconds"].iloc[-1]),
        "history": result.history.to_dict("records"),
        "tests": {test: _values(found) for test, found in {name: result.evaluation, **others, **before}.items()},
    }
    write_atomic(result_file, json.dumps(done, indent=1).encode())
    (folder / CHECKPOINT_FILE).unlink()
    return done


def _values(found: Evaluation) -> dict[str, float | None]:
    return {
        **score_values(found.scores),
        **{f"boundary_f1_{label}": value for label, value in zip(TISSUE_LABELS, found.boundary_f1, strict=True)},
        "calibration_error": found.calibration.error,
    }


Results = Mapping[str, Sequence[Mapping[str, Any]]]
_MEASURES = {**{f"iou_{label}": label for label in TISSUE_LABELS}, "mean_iou": "mean", "calibration_error": "ECE"}


def markdown(experiment: Experiment, results: Results) -> str:
    """The table of one experiment; ``results`` has the runs of each configuration."""
    rows = [["IoU on", "configuration", "seeds", "steps", *_MEASURES.values()], ["---"] * (4 + len(_MEASURES))]
    if experiment.plain_recipe:
        cells = [f"{experiment.plain_recipe[label]:.2f}" for label in TISSUE_LABELS]
        mean = statistics.mean(experiment.plain_recipe.values())
        rows.append(["", "the plain recipe to compare with", "", "", *cells, f"{mean:.2f}", "–"])
    for test in next(iter(results.values()))[0]["tests"]:
        for name, runs in results.items():
            cells = [spread([run["tests"][test][measure] for run in runs]) for measure in _MEASURES]
            rows.append([test, name, str(len(runs)), str(runs[0]["steps"]), *cells])
    return f"## {experiment.question}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def spread(values: Sequence[float | None]) -> str:
    """Mean ± standard deviation (of a sample) of what is known of ``values``."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):.3f}"
    return mean if len(known) < 2 else f"{mean} ± {statistics.stdev(known):.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the requested experiments; finished trainings are read, so an interrupted run is resumed."""
    known = list(experiments())
    parser = argparse.ArgumentParser(prog="python -m pipelines_tests.experiments", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(known)}; all where none is given")
    parser.add_argument("--out", type=Path, default=Path("build/experiments"), help="folder for trainings and tables")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each configuration")
    parser.add_argument("--threads", type=int, default=0, help="of the processor; all cores where not given")
    parser.add_argument("--toy", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in known]
    if unknown:
        parser.error(f"there is no experiment {', '.join(unknown)}: choose from {', '.join(known)}")
    compute = choose_compute(threads=given.threads)
    for name, experiment in experiments(toy=given.toy).items():
        if given.names and name not in given.names:
            continue
        folder = given.out / name
        if experiment.tiles(folder / "tiles", 1) is None:
            print(f"{name}: its tiles are not beside this checkout, so it is left out.")
            continue
        results: dict[str, list[dict[str, Any]]] = {each: [] for each in experiment.configurations}
        # Seed by seed, so that an interrupted run has something of each configuration to compare.
        for seed in range(1, given.seeds + 1):
            tiles = experiment.tiles(folder / "tiles", seed)
            assert tiles is not None
            for number, (each, settings) in enumerate(experiment.configurations.items()):
                chosen = settings.changed(seed=seed, checkpoint_seconds=0.0)
                done = run_one(tiles, chosen, compute, folder / f"{number}-{seed}", starter=experiment.starter)
                results[each].append(done)
                scores = ", ".join(f"{test} {values['mean_iou']:.3f}" for test, values in done["tests"].items())
                print(f"{name}: {each}, seed {seed}, {done['seconds']:.0f} s: mean IoU on {scores}", flush=True)
            text = markdown(experiment, {each: runs for each, runs in results.items() if runs})
            (folder / "table.md").write_text(text)
        print(f"Wrote {folder / 'table.md'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
