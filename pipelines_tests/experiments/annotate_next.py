"""How many regions must be annotated, if `annotation_queue` chooses them or chance does; ground truth is the annotator.

The starter is fine-tuned anew on the regions so far, after each further one, and scored on PAS tiles of another place
of the slide, which lie beside the checkout, or on other synthetic cores. Run as
``python -m pipelines_tests.experiments.annotate_next``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dermatome.classes import ClassMap, StainingPattern
from dermatome.geometry import Box
from dermatome.inference.compute import Compute, choose_compute
from dermatome.metrics.semantic import score_values
from dermatome.skin.queue.rank import Candidate, candidates, choose
from dermatome.skin.queue.settings import QueueSettings
from dermatome.skin.tiles.crops import TilePair, cut_tiles, load_tiles
from dermatome.skin.tiles.rois import Roi
from dermatome.skin.tissue.network import load_tissue_weights
from dermatome.skin.tissue.networks import STARTER, STARTER_WEIGHTS
from dermatome.skin.tissue.segment import prepare_tissue, segment_tissue
from dermatome.skin.tissue.task import TissueTask, TissueTraining
from dermatome.slides.slide import MppSource, Slide
from dermatome.storage.files import write_atomic
from dermatome.synthetic.skin import toy_slide
from dermatome.training.data import Split
from dermatome.training.settings import settings_from
from dermatome.training.trainer import train
from dermatome.training.weights import save_weights
from pipelines_tests.experiments.__main__ import Tiles, skin_tiles
from pipelines_tests.toy_tiles import write_tiles

MPP, SIDE_PX, VIEWS = 0.5, 256, 4
WAYS = ("chance", "queue")


@dataclass(frozen=True)
class Place:
    """A tile of the pool, as a slide with its ground truth."""

    slide: Slide
    truth: ClassMap


def tiles_of(kind: str, folder: Path, seed: int) -> Tiles:
    """What regions are chosen from, and what is scored; eight and four synthetic cores, others for each seed."""
    if kind == "pas":
        found = skin_tiles(folder, seed)
        if found is None:
            raise SystemExit("The PAS tiles are not beside this checkout.")
        return found
    patterns = list(StainingPattern)
    toys = [toy_slide(10_000 + 100 * seed + n, patterns[n % len(patterns)], size_px=768) for n in range(12)]
    return Tiles(write_tiles(folder / "pool", toys[:8]), {"other cores": write_tiles(folder / "tests", toys[8:])})


def pool_of(tiles: Sequence[TilePair]) -> dict[str, Place]:
    """The tiles that regions are chosen from, by a name that files may have."""
    found = {}
    for number, tile in enumerate(tiles):
        image, truth = tile.read()
        name = f"tile{number}"
        found[name] = Place(Slide(name, image, MPP, MppSource.DECLARED, ""), truth)
    return found


def next_region(
    pool: dict[str, Place], taken: list[Candidate], how: str, weights: Path, compute: Compute, rng: np.random.Generator
) -> Candidate:
    """The region to annotate next."""
    network = prepare_tissue(load_tissue_weights(weights), compute)
    found = [one for place in pool.values() for one in candidates(place.slide, network, SIDE_PX, VIEWS)]
    annotated: dict[str, list[Box]] = {}
    for one in taken:
        annotated.setdefault(one.slide, []).append(one.box)
    if how != "chance":
        return choose(found, 1, QueueSettings().diversity, annotated)[0].candidate
    free = choose(found, len(found), 0.0, annotated)
    return free[int(rng.integers(len(free)))].candidate


def fine_tuned(
    regions: Sequence[TilePair], tests: Sequence[TilePair], seed: int, steps: int, compute: Compute, out: Path
) -> dict[str, Any]:
    """Fine-tunes the starter on regions, saves it to ``out``, and returns its scores."""
    lineage = TissueTask.named(STARTER, Path())
    assert lineage is not None
    given = {
        "epochs": 1,
        "epoch_steps": steps,
        "batch": 4,
        "seed": seed,
        "mpp": MPP,
        "warmup_share": 0.1,
        "rehearsal": 0.5,
    }
    settings = settings_from(TissueTraining, lineage.fill_in(given))
    task = TissueTask(settings, Split(tuple(regions), tuple(tests), "another place of the slide"))
    result = train(task, compute, parent=lineage.weights)
    save_weights(out, result.state, result.card)
    return score_values(result.evaluation.scores)


def starter_scores(tests: Sequence[TilePair], compute: Compute) -> dict[str, Any]:
    """Scores of the starter itself."""
    lineage = TissueTask.named(STARTER, Path())
    assert lineage is not None
    task = TissueTask(settings_from(TissueTraining, lineage.fill_in({"mpp": MPP})), Split((), tuple(tests)))
    return score_values(task.evaluate(load_tissue_weights(STARTER_WEIGHTS).network, compute).scores)


def run(how: str, tiles: Tiles, seed: int, rounds: int, steps: int, compute: Compute, folder: Path) -> list[Any]:
    """IoU by class and their mean after each region; what was done before is read from ``folder``."""
    if (folder / "scores.json").is_file():
        done: list[Any] = json.loads((folder / "scores.json").read_text())
        return done
    pool, tests = pool_of(tiles.train), next(iter(tiles.tests.values()))
    taken: list[Candidate] = []
    rng, weights, scores = np.random.default_rng(seed), STARTER_WEIGHTS, list[Any]()
    for number in range(rounds):
        if number == 0:  # the same first region for both, drawn by chance
            taken.append(next_region(pool, taken, "chance", weights, compute, np.random.default_rng([seed, 7])))
        else:
            taken.append(next_region(pool, taken, how, weights, compute, rng))
        one, place = taken[-1], pool[taken[-1].slide]
        into = folder / "tiles" / f"{number}"
        cut_tiles(f"{one.slide}-{number}", place.slide.whole(), place.truth, [Roi("r", one.box)], into, slide=one.slide)
        regions = load_tiles(*(folder / "tiles" / f"{n}" for n in range(number + 1)))
        weights = folder / f"{number}.safetensors"
        scores.append(found_short(fine_tuned(regions, tests, seed, steps, compute, weights)))
        print(f"{how}, seed {seed}, {number + 1} regions ({one.slide}): {json.dumps(scores[-1])}", flush=True)
    write_atomic(folder / "scores.json", json.dumps(scores).encode())
    return scores


def ranking(tiles: Sequence[TilePair], compute: Compute, count: int = 10, draws: int = 1000) -> dict[str, Any]:
    """Whether the starter is wrong where its views disagree, without any training.

    Args:
        tiles: with their ground truth.
        compute: device and precision.
        count: number of regions that are chosen, by disagreement with and without novelty, and by chance.
        draws: draws by chance.
    """
    from scipy.stats import spearmanr

    network, pool = prepare_tissue(load_tissue_weights(STARTER_WEIGHTS), compute), pool_of(tiles)
    found: list[Candidate] = []
    errors: list[float] = []
    for place in pool.values():
        wrong = segment_tissue(place.slide, network).mask != place.truth
        here = candidates(place.slide, network, SIDE_PX, VIEWS)
        found += here
        errors += [float(wrong[one.box.slices].mean()) for one in here]

    def of(regions: Sequence[Candidate], diversity: float) -> float:
        chosen = choose(regions, count, diversity, {})
        return float(np.mean([errors[places[one.candidate.slide, one.candidate.box]] for one in chosen]))

    places = {(one.slide, one.box): number for number, one in enumerate(found)}
    rng = np.random.default_rng(0)
    # Equal disagreement, so that the order is that of the draw.
    drawn = [of([replace(found[n], disagreement=1.0) for n in rng.permutation(len(found))], 0.0) for _ in range(draws)]
    return {
        "regions": len(found),
        "spearman": float(spearmanr([one.disagreement for one in found], errors).statistic),
        "error_of_all": float(np.mean(errors)),
        "error_by_disagreement": of(found, 0.0),
        "error_of_queue": of(found, QueueSettings().diversity),
        "error_by_chance": float(np.mean(drawn)),
        "chance_95": np.quantile(drawn, [0.025, 0.975]).tolist(),
    }


def found_short(found: dict[str, Any]) -> dict[str, float | None]:
    """IoU by class, and their mean."""
    return {key.removeprefix("iou_"): value and round(value, 3) for key, value in found.items() if "iou" in key}


def main() -> None:
    """Prints the IoU after each region, for each way to choose and seed."""
    parser = argparse.ArgumentParser(prog="python -m pipelines_tests.experiments.annotate_next", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/annotate_next"))
    parser.add_argument("--on", choices=("pas", "synthetic"), default="pas", help="the slides")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps of a fine-tuning")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--ranking", action="store_true", help="only whether the starter is wrong where views disagree")
    given = parser.parse_args()
    compute = choose_compute("cpu", "fp32", given.threads, backend="torch")
    for seed in range(given.seeds):
        tiles = tiles_of(given.on, given.out / f"tiles-{seed}", seed)
        (tests,) = tiles.tests.values()
        if given.ranking:
            print(json.dumps(ranking([*tiles.train, *tests], compute), indent=1))
            return
        print(f"starter, seed {seed}: {found_short(starter_scores(tests, compute))}", flush=True)
        for how in WAYS:
            run(how, tiles, seed, given.rounds, given.steps, compute, given.out / f"{how}-{seed}")


if __name__ == "__main__":
    main()
