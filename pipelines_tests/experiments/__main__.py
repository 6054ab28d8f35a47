"""Runs experiments, each configuration with several seeds, and writes their tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dermatome.inference.compute import choose_compute
from pipelines_tests.experiments.plans import experiments
from pipelines_tests.experiments.runs import run_one
from pipelines_tests.experiments.table import markdown


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs those asked for; what is done already is read, so an interrupted run goes on."""
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
        tiles = experiment.tiles(folder / "tiles")
        if tiles is None:
            print(f"{name}: its tiles are not beside this checkout, so it is left out.")
            continue
        results: dict[str, list[dict[str, Any]]] = {each: [] for each in experiment.configurations}
        # Seed by seed, so that an interrupted run has something of each configuration to compare.
        for seed in range(1, given.seeds + 1):
            for number, (each, settings) in enumerate(experiment.configurations.items()):
                chosen = settings.changed(seed=seed, checkpoint_seconds=0.0)
                done = run_one(tiles, chosen, compute, folder / f"{number}-{seed}")
                results[each].append(done)
                scores = ", ".join(f"{test} {values['mean_iou']:.3f}" for test, values in done["tests"].items())
                print(f"{name}: {each}, seed {seed}, {done['seconds']:.0f} s: mean IoU on {scores}", flush=True)
            text = markdown(experiment, {each: runs for each, runs in results.items() if runs})
            (folder / "table.md").write_text(text)
        print(f"Wrote {folder / 'table.md'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
