"""`make demo`: the whole pipeline on a small embedded cohort, over the same instance `make ui` shows.

A local server in HPA's layout serves toy pages and toy cores whose truth is known; the real client, parser, assets,
Cellpose and DuckDB code run. What is current is not made again: Dagster itself says what is missing or stale.
"""

import itertools
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import dagster as dg
from rich.console import Console

from assets.partitions import ANNOTATED_SLIDES, GENES, SLIDES, TRAINING_VERSIONS
from dermatome.errors import DermatomeError, StorageFailed
from dermatome.slides.source import SlideSource
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import DataRoot
from dermatome.synthetic import cohort
from dermatome.synthetic.hpa_server import MockHpaServer
from orchestration.dagster_private import stale_status
from orchestration.definitions import DATA_ROOT_VARIABLE, DEFAULT_DATA_ROOT, build_defs
from orchestration.demo_report import print_report
from orchestration.instance import open_instance
from orchestration.requests import PER_SLIDE, register_slides

VERSION = "v001"
DEMO_FILE = "demo.json"
_PERSONS_OWN = ("hpa_images", "slide_sources", "annotations", "inbox", "settings.toml")
# Small and short, which is enough for toys; a real training takes the defaults, and minutes to hours. It ends by steps,
# not by the clock, so that it comes out the same on a slow machine.
TRAINING = {
    "encoder": "tu-regnetx_002",
    "decoder_channels": [64, 48, 32, 24, 16],
    "train_mpp": 1.0,
    "learning_rate": 3e-3,
    "epochs": 4,
    "epoch_steps": 60,
    "seed": 2,
}

# Wide enough for the closing table also where there is no terminal.
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 150)


def main() -> int:
    """Runs the demo; returns 0 when everything but the slide that is broken on purpose was made."""
    started = time.perf_counter()
    root = DataRoot.at(os.environ.get(DATA_ROOT_VARIABLE, DEFAULT_DATA_ROOT))
    try:
        root.check_writable()
        with demo_atlas(root) as atlas, open_instance() as instance:
            console.print(f"[bold]Dermatome demo[/] in {root.path}; the mock HPA server runs at {atlas.url}")
            ran = run_pipeline(Demo(root, instance, atlas))
    except DermatomeError as error:
        console.print(f"[red]{error}[/]")
        return 1
    passed = print_report(console, root)
    console.print(
        f"\nDone in {time.perf_counter() - started:.0f} s. Next: [bold]make ui[/], then open http://127.0.0.1:3000"
    )
    return 0 if ran and passed else 1


@contextmanager
def demo_atlas(root: DataRoot) -> Iterator[MockHpaServer]:
    """The demo's server, on the port it had the first time: the pages name it, and must stay the same.

    Raises:
        StorageFailed: the data root is somebody's real one, or the port is taken.
    """
    note = root.path / DEMO_FILE
    own = [name for name in _PERSONS_OWN if (root.path / name).exists()]
    if own and not note.is_file():
        raise StorageFailed(
            f"The data root {root.path} is not the demo's, as it has {', '.join(own)} and no {DEMO_FILE}: run "
            "make demo DATA=folder with another folder."
        )
    port = json.loads(note.read_text())["port"] if note.is_file() else _free_port()
    try:
        atlas = MockHpaServer(port=port)
    except OSError as error:
        raise StorageFailed(
            f"The demo's port {port} is taken ({error.strerror}), most likely as a running make ui or make demo over "
            f"{root.path} serves it: stop that first; if there is none, delete {root.path} to start over."
        ) from error
    with atlas:
        atlas.pages = cohort.pages(atlas.url)
        atlas.images = cohort.images()
        # The note first: a demo that is killed between the two must know the folder for its own.
        write_atomic(note, json.dumps({"port": port}).encode())
        write_atomic(root.settings, _settings(atlas.url).encode())
        yield atlas


def _settings(url: str) -> str:
    return f"""# Written by the demo. A data root for real images needs no settings file, or its own.
cell_weights = "toy"

[images]
declared_mpp = {cohort.MPP}

[hpa]
base_url = "{url}"
archive_urls = []
allowed_hosts = ["127.0.0.1"]
"""


class Demo:
    """The demo's code location over its instance, and a way to make what is missing or stale."""

    def __init__(self, root: DataRoot, instance: dg.DagsterInstance, atlas: MockHpaServer) -> None:
        self.root, self.instance, self.atlas = root, instance, atlas
        self.defs = build_defs(root.path, loggers={"console": _plain_logger})
        self.graph = self.defs.resolve_asset_graph()
        self._mend_killed_runs()

    def make(self, asset: str, keys: Sequence[str | None], config: dict[str, object] | None = None) -> bool:
        """Makes those partitions of an asset that are missing or stale, in as few runs as Dagster would.

        Returns:
            Whether all of them are there now.
        """
        todo = [key for key in keys if stale_status(self.instance, self.defs, asset, key) != "FRESH"]
        name = f"[bold]{asset}[/]"
        if not todo:
            console.print(f"{name}: all {len(keys)} current" if keys != [None] else f"{name}: current")
            return True
        console.print(f"{name}: {len(todo)} of {len(keys)} to make" if keys != [None] else name)
        started = time.perf_counter()
        good = True
        for tags in self._ranges(asset, todo):
            result = self.defs.resolve_implicit_global_asset_job_def().execute_in_process(
                instance=self.instance,
                asset_selection=[dg.AssetKey(asset)],
                tags=tags | {"dermatome/demo": "yes"},
                run_config={"loggers": {"console": {}}} | ({"ops": {asset: {"config": config}}} if config else {}),
                raise_on_error=False,
            )
            good = good and result.success
        console.print(f"  {time.perf_counter() - started:.1f} s", style="dim")
        return good

    def made(self, asset: str, keys: Sequence[str]) -> list[str]:
        """Those of ``keys`` the asset has been made for."""
        there = self.instance.get_materialized_partitions(dg.AssetKey(asset))
        return [key for key in keys if key in there]

    def _ranges(self, asset: str, todo: Sequence[str | None]) -> list[dict[str, str]]:
        """Runs over neighbouring partitions, as a run's tags name only the first and the last."""
        definition = self.graph.get(dg.AssetKey(asset)).partitions_def
        if definition is None:
            return [{}]
        if asset == "tissue_weights":
            return [{"dagster/partition": str(key)} for key in todo]
        keys = [key for key in todo if key is not None]
        subset = definition.subset_with_partition_keys(keys)
        with dg.partition_loading_context(dynamic_partitions_store=self.instance):
            ranges = subset.get_partition_key_ranges(definition)
        return [
            {"dagster/asset_partition_range_start": r.start, "dagster/asset_partition_range_end": r.end} for r in ranges
        ]

    def _mend_killed_runs(self) -> None:
        """A demo that was killed leaves its run behind as started; nobody else would ever end it."""
        for record in self.instance.get_runs(
            dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags={"dermatome/demo": "yes"})
        ):
            self.instance.report_run_failed(record, "The demo that ran this was stopped.")


def run_pipeline(demo: Demo) -> bool:
    """Every asset in reading order; whether all runs succeeded but that with the slide that is broken on purpose."""
    genes = [gene.ensembl_id for gene in cohort.demo_genes()]
    demo.instance.add_dynamic_partitions(str(GENES.name), genes)
    good = demo.make("hpa_images", genes)

    from dermatome.hpa.records import read_records
    from dermatome.hpa.stage import RECORDS_FILE

    rows = []
    for gene in genes:
        rows += read_records(demo.root.folder("hpa_images", gene) / RECORDS_FILE).to_pylist()
    sources = [SlideSource(r["slide"], "hpa", r["image_url"], r["gene"], r["ensembl_id"]) for r in rows]
    register_slides(demo.instance, demo.root, sources)
    slides = demo.instance.get_dynamic_partitions(str(SLIDES.name))
    demo.make("slide_images", slides)

    if not all((demo.root.annotations / name / "rois.json").is_file() for name in cohort.ANNOTATED):
        cohort.write_annotations(demo.root.annotations)
    demo.instance.add_dynamic_partitions(str(ANNOTATED_SLIDES.name), list(cohort.ANNOTATED))
    good &= demo.make("training_tiles", cohort.ANNOTATED)
    demo.instance.add_dynamic_partitions(str(TRAINING_VERSIONS.name), [VERSION])
    good &= demo.make("tissue_weights", [VERSION], config=TRAINING)
    good &= demo.make("tissue_champion", [None])

    for before, asset in itertools.pairwise(PER_SLIDE):
        good &= demo.make(asset, demo.made(before, slides))
    return demo.make("skin_metrics", [None]) and good


@dg.logger(description="What assets say, without Dagster's own events.")
def _plain_logger(context: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.Logger("demo", logging.INFO)
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(_is_said_by_an_asset)
    handler.setFormatter(_Plain())
    logger.addHandler(handler)
    return logger


def _is_said_by_an_asset(record: logging.LogRecord) -> bool:
    # The pattern of assets/each.py yields no Output, which Dagster remarks on at every run.
    return getattr(record, "dagster_event", None) is None and "did not yield or return" not in record.getMessage()


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = getattr(record, "dagster_meta", {}).get("orig_message") or record.getMessage()
        return f"  {said}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
