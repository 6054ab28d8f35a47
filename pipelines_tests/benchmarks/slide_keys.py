"""Dagster with 100,000 slides: registering them, asking what is missing, each sensor's tick, a backfill's start."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pipelines_tests.benchmarks.rows import Row, below, reported

AT_MOST_S = 60.0
GENE = "ENSG00000186847"


def slide_keys_sqlite(toy: bool) -> Iterator[Row]:
    """Over SQLite."""
    yield from _rows("SQLite", None, 300 if toy else 100_000)


def slide_keys_postgres(toy: bool) -> Iterator[Row]:
    """Over a Postgres that is started here."""
    from pipelines_tests.postgres import postgres_server

    with postgres_server() as environment:
        yield from _rows("Postgres", environment, 300 if toy else 100_000)


def _rows(storage: str, postgres: Mapping[str, str] | None, count: int) -> Iterator[Row]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        instance = stack.enter_context(_instance(folder, postgres))
        for name, step in _steps(folder / "data", instance, count).items():
            start = time.perf_counter()
            note = step()
            seconds = time.perf_counter() - start
            said = f"{count:,} slides, {storage}: {name}"
            if name.startswith("("):
                yield reported(said, seconds, "s", note=note or "")
            else:
                yield below(said, seconds, "s", at_most=AT_MOST_S, note=note or "")


def _instance(folder: Path, postgres: Mapping[str, str] | None) -> Any:
    import dagster as dg

    storage: dict[str, Any] = {"sqlite": {"base_dir": str(folder / "dagster")}}
    if postgres:
        names = {"username": "PGUSER", "password": "PGPASSWORD", "hostname": "PGHOST", "db_name": "PGDATABASE"}
        database: dict[str, Any] = {key: postgres[name] for key, name in names.items()}
        database |= {"port": int(postgres["PGPORT"]), "scheme": "postgresql+psycopg2"}
        storage = {"postgres": {"postgres_db": database}}
    return dg.instance_for_test(overrides={"storage": storage}, temp_dir=str(folder))


def _steps(folder: Path, instance: Any, count: int) -> dict[str, Callable[[], str | None]]:
    """What is timed, in order; those in brackets only prepare."""
    import dagster as dg

    from assets.partitions import GENES
    from dermatome.slides.source import SlideSource
    from dermatome.storage.layout import DataRoot
    from orchestration import schedules, sensors
    from orchestration.definitions import build_defs
    from orchestration.requests import PER_SLIDE, missing_slides, register_slides
    from resources import PathsResource

    folder.mkdir()
    root = DataRoot(folder)
    defs = build_defs(root.path)
    slides = [f"{10_000 + number // 12}_{chr(65 + number % 3)}_{number % 12}_{number}" for number in range(count)]
    sources = [SlideSource(slide, "hpa", f"https://x/{slide}.jpg", "KRT14", GENE) for slide in slides]

    def register() -> None:
        assert len(register_slides(instance, root, sources)) == count

    def again() -> None:
        assert not register_slides(instance, root, sources)

    def made() -> str:
        _materialized(instance, "slide_images", slides)
        _materialized(instance, "epidermis_masks", slides[: count // 2])
        champion = root.record("tissue_champion", "current")
        champion.parent.mkdir(parents=True)
        champion.touch()
        return "events written straight into the storage, as runs would take hours"

    def status() -> str:
        missing = missing_slides(instance, root, PER_SLIDE)
        assert [len(missing[stage]) for stage in PER_SLIDE] == [0, count - count // 2, count, count]
        return "for all four per-slide assets"

    def ticking(sensor: dg.SensorDefinition) -> Callable[[], None]:
        def tick() -> None:
            context = dg.build_sensor_context(
                instance=instance,
                sensor_name=sensor.name,
                repository_def=defs.get_repository_def(),
                resources={"paths": PathsResource(root=str(root.path))},
            )
            sensor.evaluate_tick(context)

        return tick

    def pages() -> str:
        from dermatome.hpa.pages import parse_page
        from dermatome.hpa.records import RECORDS_FILE, write_records
        from dermatome.synthetic.hpa_pages import ToyImage, gene_page_xml

        genes = [f"ENSG{number:011d}" for number in range(min(20_000, count))]
        instance.add_dynamic_partitions(str(GENES.name), genes)
        images = [ToyImage("373", f"{number}_A_1_1", patient_id=str(number)) for number in range(20)]
        for gene in genes[:100]:
            page = parse_page(gene_page_xml("KRT14", gene, "https://images.proteinatlas.org", images))
            write_records(page.records, folder / "hpa_images" / gene / RECORDS_FILE)
        _materialized(instance, "hpa_images", genes[:100])
        root.inbox.mkdir()
        for number in range(min(2_500, count)):
            image = folder / "inbox" / f"own-{number}.jpg"
            image.touch()
            os.utime(image, (1e9, 1e9))  # long settled
        return "100 fresh gene pages, and 2,500 images in the inbox"

    def refresh() -> None:
        context = dg.build_schedule_context(instance=instance, scheduled_execution_time=dg._time.get_current_datetime())
        schedules.refresh_hpa(context)

    def ask() -> None:
        job = defs.resolve_job_def("infer")
        config = {"ops": {"request_missing": {"config": {"max_slides": count}}}}
        assert job.execute_in_process(instance=instance, run_config=config).success
        assert len(instance.get_backfills()) == 1

    steps: dict[str, Callable[[], str | None]] = {
        "register them": register,
        "register them again, all known": again,
        "(write events of 100 % images and 50 % masks)": made,
        "what is missing": status,
        "(make pages and an inbox)": pages,
    }
    steps |= {f"tick of {sensor.name}": ticking(sensor) for sensor in sensors.SENSORS}
    steps["tick of refresh_hpa, 20,000 genes"] = refresh
    steps["ask for a backfill of all that is missing (schedule backfill_new_slides)"] = ask
    steps["the backfill daemon's first round: which slides go into which run"] = lambda: _first_round(instance, folder)
    steps["the backfill's first run is made"] = lambda: _first_run(instance, defs, slides)
    return steps


def _materialized(instance: Any, asset: str, partitions: list[str]) -> None:
    """Writes materializations in bulk, in the way of a run that made them one by one."""
    import dagster as dg
    from dagster._core.events import StepMaterializationData, log
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

    entry: Any = log.EventLogEntry
    storage = instance.event_log_storage
    for start in range(0, len(partitions), 5_000):
        entries = []
        for partition in partitions[start : start + 5_000]:
            made = dg.AssetMaterialization(asset, partition=partition, tags={"dagster/data_version": partition})
            event = dg.DagsterEvent(
                event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
                job_name="bulk",
                event_specific_data=StepMaterializationData(made),
            )
            entries.append(entry(None, "info", "", "bulk", time.time(), dagster_event=event))
        with storage.index_connection() as connection:
            connection.execute(SqlEventLogStorageTable.insert(), [storage._event_to_row(entry) for entry in entries])
        storage.store_asset_event(entries[-1], len(entries))


def _first_round(instance: Any, root: Path) -> str:
    """What the backfill daemon does in its first round up to handing runs over: which partitions go into which run."""
    import logging

    import dagster as dg
    from dagster._core.asset_graph_view.asset_graph_view import AssetGraphView
    from dagster._core.definitions.temporal_context import TemporalContext
    from dagster._core.execution.asset_backfill import execute_asset_backfill_iteration_inner
    from dagster._core.test_utils import create_test_daemon_workspace_context
    from dagster._core.workspace.load_target import ModuleTarget

    os.environ["DERMATOME_DATA"] = str(root)
    module = ModuleTarget("orchestration.definitions", None, str(Path.cwd()), None)
    (backfill,) = instance.get_backfills()
    with create_test_daemon_workspace_context(module, instance) as daemon:
        start = time.perf_counter()
        graph = daemon.create_request_context().asset_graph
        now = TemporalContext(effective_dt=dg._time.get_current_datetime(), last_event_id=None)
        with dg.partition_loading_context(dynamic_partitions_store=instance):
            result = execute_asset_backfill_iteration_inner(
                backfill.backfill_id,
                backfill.get_asset_backfill_data(graph),
                AssetGraphView(temporal_context=now, instance=instance, asset_graph=graph),
                backfill.backfill_timestamp,
                logging.getLogger("backfill"),
                None,
            )
        seconds = time.perf_counter() - start
    runs = list(result.run_requests)
    assert runs
    return f"{len(runs)} runs to start; {seconds:.1f} s without starting the code server"


def _first_run(instance: Any, defs: Any, slides: list[str]) -> str:
    import dagster as dg

    first, last = slides[-len(slides) // 2], slides[-len(slides) // 2 + 199]
    job = defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection={dg.AssetKey("epidermis_masks")})
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    instance.create_run_for_job(job_def=job, tags=tags, asset_selection={dg.AssetKey("epidermis_masks")})
    return "of 200 slides, an event for each"
