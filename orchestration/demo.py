"""`make demo`: the whole pipeline on a small synthetic cohort, over the same Dagster instance that `make ui` shows.

A mock HPA server serves pages and images whose ground truth is known; the real client, parser, assets, Cellpose and
DuckDB code run. What Dagster shows as fresh is not materialized again.
"""

import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import dagster as dg
from rich.console import Console

from assets.partitions import ANNOTATED_SLIDES, GENES, SLIDES, TRAINING_VERSIONS
from assets.skin import gene_profiles
from assets.slide_asset import stale_partitions_of
from dermatome.errors import DermatomeError, StorageFailed
from dermatome.settings import load_settings
from dermatome.slides.source import SlideSource
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import DataRoot
from dermatome.synthetic import cohort
from dermatome.synthetic.hpa_server import MockHpaServer
from orchestration.definitions import DATA_ROOT_VARIABLE, DEFAULT_DATA_ROOT, build_defs
from orchestration.demo_report import print_report
from orchestration.instance import open_instance
from orchestration.requests import PER_SLIDE, register_slides
from resources.dagster_private import stale_status

VERSION = "v001"
DEMO_FILE = "demo.json"
_TAG = {"dermatome/demo": "yes"}
_PERSONS_OWN = ("hpa_images", "slide_sources", "annotations", "inbox", "settings.toml")
# Small and short, which is enough for synthetic tiles; a real training takes the defaults, and minutes to hours. Its
# length is given in steps, not in minutes, so that a slow machine gets the same weights.
TRAINING = {
    "encoder": "tu-regnetx_002",
    "encoder_weights": None,
    "decoder_channels": [64, 48, 32, 24, 16],
    "train_mpp": 1.0,
    "learning_rate": 3e-3,
    "epochs": 4,
    "epoch_steps": 60,
    "seed": 2,
    "synthetic": True,
}

# The closing table needs this width, also if the output is no terminal.
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 150)


def main() -> int:
    """Runs the demo; returns 0 if everything but the slide that is broken on purpose succeeded."""
    started = time.perf_counter()
    root = DataRoot.at(os.environ.get(DATA_ROOT_VARIABLE, DEFAULT_DATA_ROOT))
    try:
        root.check_writable()
        with demo_atlas(root) as atlas, open_instance() as instance:
            console.print(f"[bold]Dermatome demo[/] in {root.path}; the mock HPA server runs at {atlas.url}")
            ran = run_pipeline(Demo(root, instance))
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
    """Runs the mock HPA server on the port of the first run: gene pages contain it, so it must not change.

    Raises:
        StorageFailed: The data root is not the demo's, or the port is taken.
    """
    note = root.path / DEMO_FILE
    own = [name for name in _PERSONS_OWN if (root.path / name).exists()]
    if own and not note.is_file():
        raise StorageFailed(
            f"The data root {root.path} is not the demo's: it has {', '.join(own)}, but no {DEMO_FILE}. Run "
            "make demo DATA=folder with another folder."
        )
    port = json.loads(note.read_text())["port"] if note.is_file() else 0
    try:
        atlas = MockHpaServer(port=port)
    except OSError as error:
        raise StorageFailed(
            f"The demo's port {port} is taken ({error.strerror}), probably by a running make ui or make demo over "
            f"{root.path}: stop that first; if there is none, delete {root.path} to start over."
        ) from error
    with atlas:
        atlas.pages = cohort.pages(atlas.url)
        atlas.images = cohort.images()
        # The note is written first: a demo that is killed in between must recognize its data root.
        write_atomic(note, json.dumps({"port": urlsplit(atlas.url).port}).encode())
        if not root.settings.is_file():  # the user may have changed it since
            write_atomic(root.settings, _settings(atlas.url).encode())
        yield atlas


def _settings(url: str) -> str:
    return f"""# Written by the demo. A data root for real images needs no settings file, or one of its own.
cell_weights = "toy"

[images]
declared_mpp = {cohort.MPP}

[hpa]
base_url = "{url}"
archive_urls = []
allowed_hosts = ["127.0.0.1"]
"""


class Demo:
    """The demo's code location and its instance."""

    def __init__(self, root: DataRoot, instance: dg.DagsterInstance) -> None:
        self.root, self.instance = root, instance
        self.defs = build_defs(root.path, loggers={"console": _plain_logger})
        # The demo runs without a daemon, so nothing else ends the runs of a demo that was killed.
        started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags=_TAG)
        for run in instance.get_runs(started):
            instance.report_run_failed(run, "The demo that executed this run was stopped.")

    def materialize(self, asset: str, keys: Sequence[str | None], config: dict[str, object] | None = None) -> bool:
        """Materializes the partitions of an asset that are missing or stale.

        Without partitions, ``keys`` is ``[None]``.

        Returns:
            Whether all succeeded.
        """
        todo = [key for key in keys if stale_status(self.instance, self.defs, asset, key) != "FRESH"]
        if asset == "gene_profiles":  # Dagster does not know which slides belong to a gene
            stale = stale_partitions_of(gene_profiles, load_settings(self.root.settings), self.root)
            todo = [key for key in keys if key in todo or key in stale]
        console.print(f"[bold]{asset}[/]: " + (f"{len(todo)} of {len(keys)} to materialize" if todo else "current"))
        started, succeeded = time.perf_counter(), True
        job = self.defs.resolve_implicit_global_asset_job_def()
        for tags in self._runs(asset, todo):
            result = job.execute_in_process(
                instance=self.instance,
                asset_selection=list(self.defs.resolve_asset_graph().get(dg.AssetKey(asset)).assets_def.keys),
                tags=_TAG | tags,
                run_config={"loggers": {"console": {}}} | ({"ops": {asset: {"config": config}}} if config else {}),
                raise_on_error=False,
            )
            succeeded &= result.success
        if todo:
            console.print(f"  {time.perf_counter() - started:.1f} s", style="dim")
        return succeeded

    def _runs(self, asset: str, todo: Sequence[str | None]) -> list[dict[str, str]]:
        """Tags of the runs, each over a range of consecutive partitions: a run stores its first and last."""
        definition = self.defs.resolve_asset_graph().get(dg.AssetKey(asset)).partitions_def
        if definition is None or not todo:
            return [{}] if todo else []
        if asset == "tissue_weights":
            return [{"dagster/partition": str(key)} for key in todo]
        with dg.partition_loading_context(dynamic_partitions_store=self.instance):
            ranges = definition.subset_with_partition_keys(todo).get_partition_key_ranges(definition)
        return [
            {"dagster/asset_partition_range_start": r.start, "dagster/asset_partition_range_end": r.end} for r in ranges
        ]


def run_pipeline(demo: Demo) -> bool:
    """Materializes every asset in order.

    Returns:
        Whether all runs succeeded but the one with the slide that is broken on purpose.
    """
    from dermatome.hpa.records import gene_images

    root, instance = demo.root, demo.instance
    genes = [gene.ensembl_id for gene in cohort.demo_genes()]
    instance.add_dynamic_partitions(str(GENES.name), genes)
    good = demo.materialize("hpa_images", genes)
    rows = [r for gene in genes for r in gene_images(root, gene)]
    sources = [SlideSource(r["slide"], "hpa", r["image_url"], r["gene"], r["ensembl_id"]) for r in rows]
    register_slides(instance, root, sources)
    slides = instance.get_dynamic_partitions(str(SLIDES.name))
    demo.materialize("slide_images", slides)
    good &= train_champion(demo)
    for before, asset in itertools.pairwise(PER_SLIDE):
        materialized = instance.get_materialized_partitions(dg.AssetKey(before))
        good &= demo.materialize(asset, [slide for slide in slides if slide in materialized])
    good &= demo.materialize("gene_profiles", genes)
    for asset in ("skin_atlas", "hpa_agreement", "skin_metrics"):
        good &= demo.materialize(asset, [None])
    return good


def train_champion(demo: Demo, **training: object) -> bool:
    """Materializes training tiles, weights and the tissue champion.

    ``training`` overrides entries of :data:`TRAINING` in the run config of the training.
    """
    if not all((demo.root.annotations / name / "rois.json").is_file() for name in cohort.ANNOTATED):
        cohort.write_annotations(demo.root.annotations)
    demo.instance.add_dynamic_partitions(str(ANNOTATED_SLIDES.name), list(cohort.ANNOTATED))
    demo.instance.add_dynamic_partitions(str(TRAINING_VERSIONS.name), [VERSION])
    good = demo.materialize("training_tiles", cohort.ANNOTATED)
    good &= demo.materialize("tissue_weights", [VERSION], config=TRAINING | training)
    return demo.materialize("tissue_champion", [None]) and good


@dg.logger(description="Log messages of the assets, without Dagster's own events.")
def _plain_logger(context: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.Logger("demo", logging.INFO)
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(_is_logged_by_an_asset)
    handler.setFormatter(logging.Formatter("  %(plain_message)s"))
    logger.addHandler(handler)
    return logger


def _is_logged_by_an_asset(record: logging.LogRecord) -> bool:
    record.plain_message = getattr(record, "dagster_meta", {}).get("orig_message") or record.getMessage()
    # Dagster warns in every run that a step of assets.slide_asset yields no Output.
    return getattr(record, "dagster_event", None) is None and "did not yield or return" not in record.getMessage()


if __name__ == "__main__":
    sys.exit(main())
