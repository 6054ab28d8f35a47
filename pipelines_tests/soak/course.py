"""The course of a soak: an undisturbed run to compare with, then everything that goes wrong, at once."""

import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import requests
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES

from dermatome.slides.source import inbox_sources
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import verify_root
from orchestration.requests import PER_SLIDE, register_slides
from pipelines_tests.e2e.platform import CHECKOUT, Platform, environment
from pipelines_tests.faulty_hpa_server import FaultyHpaServer
from pipelines_tests.soak.chaos import (
    Clock,
    Killer,
    damage_one,
    full_disk,
    locked_store,
    overwrite,
    platform_processes,
    read_only,
)
from pipelines_tests.soak.cohort import SETTINGS, Cohort, fill_inbox

_FULL_S = 20.0
_DAY_S = 24 * 3600
_AT_ONCE = 4
_ASKED = "backfill requested, twice over the same slides"


@dataclass
class Plan:
    """How much of what.

    Attributes:
        slides: on HPA; the catalogue's come on top.
        toys: how many different images they are.
        odd: how many of the catalogue's files that are good, if odd, are put into the inbox beside all that are bad.
        kills: at least.
        damaged: files that are deleted, truncated or have a bit flipped, at least.
        asks: how often two backfills are requested at once, at most.
        seed: of everything random.
        disk_mb: of the small disk.
        settle_s: how long, after the last kill, until everything must be done.
    """

    slides: int = 150
    toys: int = 6
    odd: int = 48
    kills: int = 60
    damaged: int = 60
    asks: int = 12
    seed: int = 1
    disk_mb: int = 900
    settle_s: float = 1800.0


@dataclass
class Diary:
    """What was done to the platform, and counts of it."""

    counts: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)

    def note(self, what: str, *, count: bool = True) -> None:
        """Prints a line, and counts it."""
        self.counts[what] += count
        print(f"{time.monotonic() - self.started:6.0f} s  {what}", flush=True)


def undisturbed(root: DataRoot, cohort: Cohort, images: Path) -> None:
    """Makes every content of the cohort once, in one process, without a fault."""
    images.mkdir()
    for name in set(cohort.good.values()):
        suffix, data = cohort.contents[name]
        (images / f"{name}{suffix}").write_bytes(data)
    root.settings.write_text('cell_weights = "toy"\n')
    with _instance(root) as instance:
        register_slides(instance, root, inbox_sources(images).values())
    done = subprocess.run(
        [sys.executable, "-m", "pipelines_tests.e2e.run_stages", str(root.path)],
        cwd=CHECKOUT,
        env=environment(root.path),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise AssertionError(f"The undisturbed run failed.\n{done.stderr[-6000:]}")


@contextmanager
def _instance(root: DataRoot) -> Iterator[dg.DagsterInstance]:
    import os

    os.environ.update(environment(root.path))
    with dg.DagsterInstance.get() as instance:
        yield instance


class Course:
    """The disturbed run.

    Args:
        plan: how much of what.
        root: the data root, on the small disk, with a champion.
        cohort: what there is to make.
        atlas: the misbehaving server, running.
        disk: the small disk; None where there is none to fill.
        clock: the platform's.
        logs: folder for the platform's logs, elsewhere.
    """

    def __init__(
        self,
        plan: Plan,
        root: DataRoot,
        cohort: Cohort,
        atlas: FaultyHpaServer,
        disk: Path | None,
        clock: Clock,
        logs: Path,
    ) -> None:
        self.plan, self.root, self.cohort, self.disk, self._clock = plan, root, cohort, disk, clock
        self.diary, self._dice = Diary(), random.Random(plan.seed)
        self.killer = Killer(root.path, self._dice)
        self.damaged: Counter[str] = Counter()
        self._log = logs / "platform.log"
        root.settings.write_text(SETTINGS.format(url=atlas.url))
        fill_inbox(root, cohort, partly=True)
        self._platform: Platform | None = None

    def run(self) -> None:
        """Disturbs until everything planned was done, then lets the platform come to rest."""
        with self._new_platform():
            self._disturb()
            self._settle()
        self._move_root()
        self._make_read_only()
        self._lose_dagsters_storage()
        with self._new_platform():
            self._settle()
            self._refresh_metrics()

    @contextmanager
    def _new_platform(self) -> Iterator[None]:
        """Runs the platform over a new Dagster storage, in which the genes are registered and the sensors are on."""
        with _instance(self.root) as instance:
            self._instance = instance
            instance.add_dynamic_partitions("genes", [*self.cohort.genes, *self.cohort.bad_genes])
            try:
                self._start()
                self._begin()
                yield
            finally:
                self._stop()

    def _begin(self) -> None:
        """What a person does in a new Dagster storage."""
        for sensor in ("new_hpa_images", "image_folder"):
            self._try(lambda platform, sensor=sensor: platform.turn_on(sensor))
        self._fetch_pages()

    def _move_root(self) -> None:
        """Gives the data root another path, as a person does who moves it to another disk."""
        moved = self.root.path.with_name("moved")
        self.root.path.rename(moved)
        self.root = DataRoot(moved)
        self.diary.note("data root moved")

    def _make_read_only(self) -> None:
        """The platform over a disk that is mounted read-only refuses to start, and says why."""
        if self.disk is None:
            return
        with read_only(self.disk):
            self._is_refused("is not writable")
        self.diary.note("refused to start on a read-only disk")

    def _lose_dagsters_storage(self) -> None:
        """Dagster's SQLite is overwritten in the middle; then what `docs/howto/dagster-storage.md` says is done."""
        storage = self.root.path / "dagster"
        for file in (storage / "history" / "runs.db", storage / "history" / "runs" / "index.db"):
            overwrite(file, self._dice)
        self._is_refused("is damaged")
        storage.rename(self.root.path.with_name("dagster-damaged"))
        self.diary.note("Dagster's SQLite damaged, and a new storage started")

    def _is_refused(self, sentence: str) -> None:
        platform = Platform(self.root.path, log=self._log)
        try:
            platform.__enter__()
        except AssertionError as error:
            assert sentence in str(error), error  # noqa: PT017 (the message ends with the platform's log)
        else:
            raise AssertionError(f"The platform started, and should have said: {sentence}.")
        finally:
            platform.__exit__()

    def _disturb(self) -> None:
        plan, dice = self.plan, self._dice
        next_kill, next_ask, next_lock = time.monotonic() + 20, time.monotonic() + 30, 0.0
        filled = locked = set_back = False
        while True:
            self._keep_up()
            now, kills = time.monotonic(), sum(self.killer.killed.values())
            if sum(self.damaged.values()) < plan.damaged * min(kills / plan.kills, 1):
                self._damage()
            elif kills >= plan.kills and filled and locked:
                break
            if not set_back and kills >= 2 * plan.kills // 5 and self.killer.is_working():
                self._clock.set_back(_DAY_S)
                set_back = True
                self.diary.note("clock set back by a day")
            if kills == plan.kills // 2:  # the second half of a copy that the sensor saw the first half of
                fill_inbox(self.root, self.cohort)
            if now > next_kill:
                role = self.killer.kill_one()
                if role is not None:
                    self.diary.note(f"SIGKILL for a {role}")
                next_kill = now + (2 if role is None else dice.uniform(1, 10))
            # No more than the platform can finish soon after the last kill.
            if now > next_ask and self.diary.counts[_ASKED] < 2 * plan.asks and len(self._backfills()) < _AT_ONCE:
                self._ask_twice()
                next_ask = now + dice.uniform(15, 40)
            if not filled and kills >= plan.kills // 3 and self.killer.is_working():
                self._fill_disk()
                filled = True
            if not locked and kills >= 2 * plan.kills // 3 and now > next_lock:
                locked = self._lock_store()
                next_lock = time.monotonic() + 15
            time.sleep(0.3)

    def _damage(self) -> None:
        slide = self._dice.choice(list(self.cohort.good))
        how = damage_one([self.root.folder(asset, slide) for asset in PER_SLIDE], self._dice)
        if how is not None:
            self.damaged[how] += 1

    def _ask_twice(self) -> None:
        """Two backfills over the same slides at once, as two people would ask for them."""
        registered = self._instance.get_dynamic_partitions("slides")
        if not registered or not self._instance.get_materialized_partitions(dg.AssetKey("hpa_images")):
            self._fetch_pages()  # again: the run that fetched them was killed
            return
        # Neighbours: scattered slides would be a run for each stretch of them.
        first = self._dice.randrange(0, 1 + len(registered) // 2)
        chosen = registered[first : first + max(1, len(registered) // 2)]
        for _ in range(2):
            if self._try(lambda platform: platform.backfill(list(PER_SLIDE), chosen)):
                self.diary.note(_ASKED)

    def _fetch_pages(self) -> None:
        made = self._instance.get_materialized_partitions(dg.AssetKey("hpa_images"))
        missing = [gene for gene in (*self.cohort.genes, *self.cohort.bad_genes) if gene not in made]
        if missing:
            self._try(lambda platform: platform.backfill(["hpa_images"], missing))

    def _fill_disk(self) -> None:
        if self.disk is None:
            return
        with full_disk(self.disk):
            self.diary.note("disk full")
            time.sleep(_FULL_S)  # a platform that ends now is started again once there is room
        self.diary.note("disk freed", count=False)

    def _lock_store(self) -> bool:
        """Holds the DuckDB file open in another process while the metrics are made anew."""
        if not self.root.store.is_file() and not self._refresh_metrics():
            return False
        with locked_store(self.root.store):
            before = self.root.store.stat().st_ino
            if not self._refresh_metrics():
                return False
            assert self.root.store.stat().st_ino != before
        self.diary.note("metrics refreshed while another process had the store locked")
        return True

    def _refresh_metrics(self) -> bool:
        runs: list[str] = []
        if not self._try(lambda platform: runs.append(platform.launch("refresh_metrics"))):
            return False
        until = time.monotonic() + 120
        while time.monotonic() < until:
            self._keep_up()
            run = self._instance.get_run_by_id(runs[0])
            if run is not None and run.is_finished:
                return bool(run.is_success)
            time.sleep(0.5)
        return False

    def _settle(self) -> None:
        """No more kills: what a person would do now, until every good slide is made or the time is up."""
        self.diary.note("calm again", count=False)
        until = time.monotonic() + self.plan.settle_s
        while time.monotonic() < until:
            self._keep_up()
            if self._is_busy():
                time.sleep(1)
                continue
            damaged = sorted(
                {slide for asset, slide, damaged in verify_root(self.root) if damaged and asset in PER_SLIDE}
            )
            missing = self._missing()
            unknown = set(self.cohort.slides) - set(self._instance.get_dynamic_partitions("slides"))
            if not missing and not unknown and not damaged:
                return
            self.diary.note(
                f"at rest: {len(missing)} slides lack something, {len(damaged)} damaged, {len(unknown)} unknown",
                count=False,
            )
            self._fetch_pages()
            config = {"ops": {"request_missing": {"config": {"slides": missing}}}}
            if missing:
                self._try(lambda platform, config=config: platform.launch("infer", config))
            if damaged:
                self._try(lambda platform, damaged=damaged: platform.backfill(list(PER_SLIDE), damaged))
            time.sleep(15)
        self.diary.note("the time is up", count=False)

    def _missing(self) -> list[str]:
        """Registered slides that are neither made everywhere nor known as bad with a reason."""
        made = [self._instance.get_materialized_partitions(dg.AssetKey(asset)) for asset in PER_SLIDE]
        failed = self.root.failed("slide_images")
        registered = self._instance.get_dynamic_partitions("slides")
        unmade = [slide for slide in registered if not all(slide in one for one in made)]
        return [slide for slide in unmade if slide in self.cohort.good or slide not in failed]

    def _is_busy(self) -> bool:
        runs = self._instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES), limit=1)
        return bool(runs or self._backfills())

    def _backfills(self) -> Sequence[object]:
        return self._instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED]))

    def _try(self, action: object) -> bool:
        """What a person asks of the UI; they ask again later where it does not answer."""
        try:
            action(self._platform)  # type: ignore[operator]
        except (requests.RequestException, AssertionError) as error:
            said = re.search(r"\w*(Error|Refused|Reset)\w*(: [^\n]{0,100})?", str(error))
            self.diary.note("the UI could not do what it was asked")
            print(f"          {said.group() if said else type(error).__name__}", flush=True)
            if self._platform is not None and self._platform.is_up:
                self._reload()
            return False
        return True

    def _reload(self) -> None:
        """The UI's button for a code location that does not answer."""
        try:
            self._platform.query(
                """mutation { reloadRepositoryLocation(repositoryLocationName: "dermatome") {
                    __typename } }"""
            )
        except (requests.RequestException, AssertionError):
            return

    def _keep_up(self) -> None:
        """What a service manager does: starts the platform again where it has ended."""
        if self._platform is not None and not self._platform.is_up:
            self._stop()
            self._start()

    def _start(self) -> None:
        for attempt in range(5):
            platform = Platform(self.root.path, log=self._log)
            try:
                self._platform = platform.__enter__()
            except AssertionError as error:
                print(f"          {str(error)[:300]}", flush=True)
                platform.__exit__()
                time.sleep(2 * attempt)
                continue
            self.diary.note("platform started")
            return
        raise AssertionError("the platform did not start in five attempts")

    def _stop(self) -> None:
        if self._platform is not None:
            self._platform.__exit__()
            self._platform = None


def copy_champion(source: Path, root: DataRoot) -> None:
    """The weights and the champion of another data root."""
    for asset in ("tissue_weights", "tissue_champion"):
        shutil.copytree(source / asset, root.folder(asset))


def left_overs(root: DataRoot) -> list[Path]:
    """Hidden files and folders that something killed left behind."""
    kept = ("dagster", "inbox")
    return [
        path
        for path in root.path.rglob(".*")
        # A store that was being made is swept away by the making of a later one, an hour after.
        if path.relative_to(root.path).parts[0] not in kept and not path.name.startswith((".ballast", ".store-"))
    ]


def processes_left(root: DataRoot, timeout_s: float) -> dict[int, str]:
    """Processes of the platform that are still there so long after it ended."""
    until = time.monotonic() + timeout_s
    while (left := platform_processes(root.path)) and time.monotonic() < until:
        time.sleep(0.5)
    return left
