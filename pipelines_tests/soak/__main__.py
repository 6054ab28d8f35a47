"""`make soak`: runs the course, audits, prints the counts, and writes them as Markdown."""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import dagster as dg

from dermatome.storage.layout import DataRoot
from orchestration.requests import PER_SLIDE
from pipelines_tests.e2e.platform import CHECKOUT, environment
from pipelines_tests.faulty_hpa_server import FaultyHpaServer
from pipelines_tests.soak.chaos import Clock, small_disk
from pipelines_tests.soak.cohort import Cohort, make_cohort
from pipelines_tests.soak.course import Course, Plan, copy_champion, left_overs, processes_left, undisturbed
from pipelines_tests.soak.invariants import complaints


def main() -> int:
    """Returns 0 where every invariant held."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in vars(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--champion", type=Path, help="a data root whose champion is used; trained where not given")
    parser.add_argument("--undisturbed", type=Path, help="the data root of such a run that was kept (--keep)")
    parser.add_argument("--report", type=Path, default=Path("soak.md"), help="where the counts go, as Markdown")
    parser.add_argument("--keep", action="store_true", help="do not delete the undisturbed run and the logs")
    given = vars(parser.parse_args())
    champion, report, keep = given.pop("champion"), given.pop("report"), given.pop("keep")
    kept = given.pop("undisturbed")
    plan, began = Plan(**given), time.monotonic()
    with ExitStack() as stack:
        work = Path(tempfile.mkdtemp(prefix="dermatome-soak-work-"))
        clock = Clock(work)
        disk, why_none = stack.enter_context(small_disk(plan.disk_mb))
        atlas = stack.enter_context(FaultyHpaServer())
        cohort = make_cohort(atlas, plan.slides, plan.toys, plan.odd, plan.seed)
        calm, root = DataRoot(kept or work / "calm"), DataRoot(disk / "data")
        root.path.mkdir()
        if kept is None:
            calm.path.mkdir()
            copy_champion(champion or _trained(work / "champion"), calm)
            print(f"Undisturbed run of {len(set(cohort.good.values()))} contents below {work}", flush=True)
            undisturbed(calm, cohort, work / "images")
        copy_champion(calm.path, root)
        print(
            f"  took {time.monotonic() - began:.0f} s; now the disturbed one over {len(cohort.slides)} slides",
            flush=True,
        )
        course = Course(plan, root, cohort, atlas, None if why_none else disk, clock, work)
        course.run()
        root = course.root
        left = processes_left(root, 90)
        os.environ.update(environment(root.path))
        with dg.DagsterInstance.get() as instance:
            found = complaints(root, calm, cohort, instance)
            runs = instance.get_runs_count()
        found += [f"process {pid} ({role}) is still there" for pid, role in left.items()]
        # As `skin_metrics` does, but at once; nothing runs that could still be at work on them.
        swept = root.sweep(older_than_s=0)
        found += [f"{path} was left behind and nobody would delete it" for path in left_overs(root)]
        lines = _report(course, cohort, atlas, runs, swept, why_none, time.monotonic() - began)
    print("\n".join(lines))
    report.write_text("\n".join(lines) + "\n")
    for complaint in found:
        print(f"BROKEN: {complaint}")
    print(f"{len(found)} invariants broken; work in {work}" if found else "Every invariant held.")
    if not keep and not found:
        subprocess.run(["rm", "-r", str(work)], check=True)
    return 1 if found else 0


def _trained(folder: Path) -> Path:
    print("Training a champion", flush=True)
    folder.mkdir()
    (folder / "settings.toml").write_text('cell_weights = "toy"\n')
    command = [sys.executable, "-m", "pipelines_tests.soak.champion", str(folder)]
    subprocess.run(command, cwd=CHECKOUT, env=environment(folder), check=True)
    return folder


def _report(
    course: Course, cohort: Cohort, atlas: FaultyHpaServer, runs: int, swept: int, why_none: str, seconds: float
) -> list[str]:
    killed, counts = course.killer.killed, course.diary.counts
    rows: list[tuple[str, object]] = [
        ("slides", f"{len(cohort.slides)}: {course.plan.slides} of HPA, {len(cohort.inbox)} of the inbox"),
        ("genes", f"{len(cohort.genes) + len(cohort.bad_genes)}, {len(cohort.bad_genes)} of them bad"),
        ("slides materialized, all of " + ", ".join(f"`{asset}`" for asset in PER_SLIDE), len(cohort.good)),
        ("slides failed with the reason that was written down for them", len(cohort.bad)),
        ("processes killed (SIGKILL)", sum(killed.values())),
        *((f"– {role}", count) for role, count in sorted(killed.items())),
        ("files damaged: each healed", sum(course.damaged.values())),
        *((f"– {how}", count) for how, count in sorted(course.damaged.items())),
        ("times the data root was moved", counts["data root moved"]),
        ("times the platform's clock was set back by a day", counts["clock set back by a day"]),
        ("times a read-only disk was refused", counts["refused to start on a read-only disk"]),
        (
            "times Dagster's SQLite was damaged, and started anew",
            counts["Dagster's SQLite damaged, and a new storage started"],
        ),
        ("times the platform was started", counts["platform started"]),
        (
            "backfills requested, two at a time over the same slides",
            counts["backfill requested, twice over the same slides"],
        ),
        ("times the disk was full", counts["disk full"] or f"skipped: {why_none}"),
        (
            "metrics refreshed while another process had the store locked",
            counts["metrics refreshed while another process had the store locked"],
        ),
        ("requests the UI could not do while something was down", counts["the UI could not do what it was asked"]),
        ("requests the server saw", len(atlas.requests)),
        ("Dagster runs since its storage was started anew", runs),
        ("half-written files and folders that the last kills left, swept away", swept),
        ("minutes, with the undisturbed run", f"{seconds / 60:.0f}"),
        ("seed", course.plan.seed),
        ("machine", f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"),
    ]
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


if __name__ == "__main__":
    sys.exit(main())
