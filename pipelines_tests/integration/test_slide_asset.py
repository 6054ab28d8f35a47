"""The pattern of many partitions in one run, on real runs of small assets."""

import json
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy
from dagster._core.definitions.partitions.context import partition_loading_context
from sqlalchemy.pool import QueuePool

from assets.partitions import BY_INFER, BY_INFER_NUCLEI, REQUESTED_BY
from assets.slide_asset import Run, keep_connections, slide_asset
from assets.sources import INBOX
from dermatome.errors import BadImage
from dermatome.pipeline.batch import InFlight
from dermatome.pipeline.cached_stage import Stage, WaitingStage
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import FIGURE_FILE, PREVIEW_FILE
from dermatome.storage.record import Check, StageResult, read_record, require_record, write_record
from resources import PathsResource, SettingsResource
from resources.dagster_private import stale_status

KEYS = dg.DynamicPartitionsDefinition(name="keys")


@slide_asset(
    KEYS, "g", kind="file", code_version="1", partitions_a_run=10,
    deps=[INBOX], decided_by=["layers.max_gap_um"], checks={"even": "Is even."},
)  # fmt: skip
def first(run: Run) -> Stage:
    """The first asset."""
    root = run.root

    def make(key, folder):
        bad = root.path / "bad.json"
        if bad.exists() and key in json.loads(bad.read_text()):
            write_atomic(folder / "half.txt", b"half")
            raise BadImage(f"{key} is bad.")
        count = int((root.path / "made.txt").read_text()) if (root.path / "made.txt").exists() else 0
        (root.path / "made.txt").write_text(str(count + 1))
        write_atomic(folder / "data.txt", key.encode())
        if run.settings.figures:
            for name in (FIGURE_FILE, PREVIEW_FILE):
                write_atomic(folder / name, b"small")
        return StageResult("made", f"version-{key}", {"n": 1}, checks=(Check("even", key != "k1", "said"),))

    return WaitingStage(root, "first", make, figures=run.settings.figures)


@slide_asset(
    KEYS, "g", kind="file", code_version="1", partitions_a_run=9,
    deps=[first],
)  # fmt: skip
def second(run: Run) -> Stage:
    """The second asset."""

    def make(key, folder):
        return StageResult("made", "same", {})

    return WaitingStage(
        run.root, "second", make, lambda key: {"first": require_record(run.root, "first", key).data_version}
    )


@pytest.fixture
def instance(instance):
    instance.add_dynamic_partitions("keys", [f"k{number}" for number in range(5)])
    return instance


def run(root, instance, assets, start="k0", end="k4", **more_tags):
    defs = dg.Definitions(
        assets=[first, second],
        resources={"paths": PathsResource(root=str(root.path)), "settings": SettingsResource(path=str(root.settings))},
        executor=dg.in_process_executor,
    )
    tags = {"dagster/asset_partition_range_start": start, "dagster/asset_partition_range_end": end}
    return defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(asset) for asset in assets],
        tags=({"dagster/partition": start} if start == end else tags) | more_tags,
        raise_on_error=False,
    )


def set_gap(root, gap_um):
    root.settings.write_text(f"[layers]\nmax_gap_um = {gap_um}\n")


def bad(root, *keys):
    (root.path / "bad.json").write_text(json.dumps(keys))


def made(root):
    return int((root.path / "made.txt").read_text())


def materialized(instance, asset):
    return instance.get_materialized_partitions(dg.AssetKey(asset))


def checks_in_the_ui(instance):
    """The partitions of a check by the status that the UI shows; what is missing is in none."""
    check = dg.AssetCheckKey(dg.AssetKey("first"), "even")
    with partition_loading_context(dynamic_partitions_store=instance):
        state = instance.event_log_storage.get_asset_check_state([(check, KEYS)])[check]
        found = {status.value: set(subset.value.get_partition_keys()) for status, subset in state.subsets.items()}
    return {status: keys for status, keys in found.items() if keys}


RANGE_OF_ONE = {"dagster/asset_partition_range_start": "k2", "dagster/asset_partition_range_end": "k2"}


@pytest.mark.parametrize(
    ("more_tags", "seen"),
    [
        ({}, {"SUCCEEDED": {"k0", "k2", "k3", "k4"}, "FAILED": {"k1"}}),
        ({"start": "k1", "end": "k1"}, {"FAILED": {"k1"}}),
        (RANGE_OF_ONE, {"SUCCEEDED": {"k2"}}),
    ],
    ids=["many", "one", "a range of one"],
)
def test_checks_show_in_the_ui_for_each_partition(root, instance, more_tags, seen):
    run(root, instance, ["first"], **more_tags)
    assert checks_in_the_ui(instance) == seen


def test_a_failed_partition_says_why_on_its_page_and_in_a_sentence(root, instance):
    bad(root, "k1")
    result = run(root, instance, ["first"])
    (observed,) = instance.fetch_observations(dg.AssetKey("first"), limit=10).records
    assert observed.partition_key == "k1"
    shown = observed.event_log_entry.asset_observation.metadata
    assert {key: entry.value for key, entry in shown.items()} == {"failure": "k1 is bad.", "tries": 1}
    others = result.asset_materializations_for_node("first")
    assert {event.partition for event in others} == {"k0", "k2", "k3", "k4"}
    assert not any({"failure", "tries"} & event.metadata.keys() for event in others)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    said = failure.step_failure_data.user_failure_data.description
    assert said.startswith("1 of 5 failed; the others are materialized. The first is k1: k1 is bad. Fix the cause")
    result = run(root, instance, ["first"], "k1", "k1")
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_failure_data.user_failure_data.description == "k1 failed: k1 is bad."


def test_bad_partitions_fail_alone_with_their_reason(root, instance):
    bad(root, "k1", "k3")
    result = run(root, instance, ["first"])
    assert not result.success
    assert materialized(instance, "first") == {"k0", "k2", "k4"}
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    said = failure.step_failure_data.user_failure_data.metadata["failed"].value
    assert said == {"k1": "k1 is bad.", "k3": "k3 is bad."}
    assert sorted(path.stem for path in (root.path / "failures" / "first").iterdir()) == ["k1", "k3"]
    assert sorted(path.name for path in root.folder("first").iterdir()) == ["k0", "k2", "k4"], "nothing half-made"

    bad(root)
    assert run(root, instance, ["first"]).success
    assert made(root) == 5, "what was there is not computed again"
    assert not list((root.path / "failures" / "first").iterdir())


def test_a_slide_that_killed_two_runs_fails_alone_and_then_may_be_tried_again(root, instance):
    notes = InFlight(root, "first", "a run that Dagster does not know any more")
    notes.begin("k1", alone=True)
    notes.begin("k2")
    assert not run(root, instance, ["first"]).success
    assert materialized(instance, "first") == {"k0", "k2", "k3", "k4"}
    assert "Two runs died while they worked on k1" in (root.path / "failures" / "first" / "k1.json").read_text()
    assert run(root, instance, ["first"], "k1", "k1").success
    assert not list((root.path / "in_flight").rglob("*.json"))


def test_a_missing_input_is_said(root, instance):
    assert not run(root, instance, ["second"], "k0", "k0").success
    (failure,) = (root.path / "failures" / "second").iterdir()
    assert failure.stem == "k0"


def test_damage_is_healed_and_hashes_are_compared_if_a_person_started_the_run(root, instance):
    run(root, instance, ["first"])
    k0, k1 = (root.folder("first", key) / "data.txt" for key in ("k0", "k1"))
    k0.write_bytes(b"K0")
    k1.unlink()
    assert run(root, instance, ["first"], **{"dagster/sensor_name": "some_sensor"}).success
    assert (k0.read_bytes(), k1.read_bytes(), made(root)) == (b"K0", b"k1", 6)
    assert run(root, instance, ["first"]).success
    assert (k0.read_bytes(), made(root)) == (b"k0", 7)


def stale(instance, asset, key):
    defs = dg.Definitions(
        assets=[first, second], resources={"paths": PathsResource(root="x"), "settings": SettingsResource(path="x")}
    )
    return stale_status(instance, defs, asset, key)


@pytest.mark.parametrize("end", ["k0", "k4"])
def test_dagster_sees_what_is_fresh_and_what_is_stale(root, instance, end):
    run(root, instance, ["first"], "k0", end)
    run(root, instance, ["second"], "k0", end)
    assert stale(instance, "first", "k0") == "FRESH", "an external asset makes nothing stale"
    assert stale(instance, "second", "k0") == "FRESH"
    instance.report_runless_asset_event(
        dg.AssetMaterialization("first", partition="k0", tags={"dagster/data_version": "another"})
    )
    assert stale(instance, "second", "k0") == "STALE"
    if end == "k4":
        assert stale(instance, "second", "k1") == "FRESH"


def test_a_reused_result_keeps_its_preview(root, instance):
    for reused in (False, True):
        for event in run(root, instance, ["first"]).asset_materializations_for_node("first"):
            assert event.metadata["reused"].value == reused
            assert "preview" in event.metadata


def test_figures_are_left_out_and_drawn_by_the_next_run_that_wants_them(root, instance):
    for figures, preview, runs in (("false", "Not drawn", 5), ("false", "Not drawn", 5), ("true", "![preview]", 10)):
        root.settings.write_text(f"figures = {figures}\n")
        found = run(root, instance, ["first"])
        for event in found.asset_materializations_for_node("first"):
            shown = event.metadata["preview"]
            assert (shown.text if figures == "false" else shown.md_str).startswith(preview)
        (stale_now,) = [e for e in found.get_asset_check_evaluations() if e.check_name == "up_to_date"]
        assert stale_now.passed
        assert made(root) == runs


@pytest.mark.parametrize("infer", [BY_INFER, BY_INFER_NUCLEI])
def test_what_only_fills_gaps_between_missing_partitions_stays_as_it_is(root, instance, infer):
    run(root, instance, ["first"], "k0", "k1")
    bad(root, "k2")
    run(root, instance, ["first"], "k2", "k3")
    bad(root)
    set_gap(root, 2.0)
    assert made(root) == 3
    assert run(root, instance, ["first"], **{REQUESTED_BY: infer}).success
    assert made(root) == 5, "k2 had failed, k4 was never made"
    settings = {f"k{n}": read_record(root.record("first", f"k{n}")).settings["layers.max_gap_um"] for n in range(5)}
    assert settings == {"k0": 100, "k1": 100, "k2": 2, "k3": 100, "k4": 2}
    assert run(root, instance, ["first"]).success
    assert made(root) == 8


def test_what_is_stale_stays_so_where_a_run_only_fills_gaps(root, instance):
    run(root, instance, ["first"])
    run(root, instance, ["second"], "k0", "k1")
    run(root, instance, ["second"], "k3", "k3")
    anew = replace(read_record(root.record("first", "k1")), data_version="another")
    write_record(root.record("first", "k1"), anew)
    instance.report_runless_asset_event(
        dg.AssetMaterialization("first", partition="k1", tags={"dagster/data_version": "another"})
    )
    assert run(root, instance, ["second"], **{REQUESTED_BY: BY_INFER}).success
    assert materialized(instance, "second") == {f"k{n}" for n in range(5)}
    states = {key: stale(instance, "second", key) for key in ("k0", "k1", "k2", "k3")}
    assert states == {"k0": "FRESH", "k1": "STALE", "k2": "FRESH", "k3": "FRESH"}


class NoInstance:
    def optimize_for_webserver(self, **options: int) -> None:
        assert options["statement_timeout"] == 0


def test_a_connection_that_was_cut_is_opened_again(tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/a.db", poolclass=QueuePool, pool_size=1)
    for _ in range(2):  # runs of one process share what listens
        keep_connections(NoInstance())  # type: ignore[arg-type]
    with engine.connect() as connection:
        connection.connection.driver_connection.close()  # type: ignore[union-attr]
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("select 7")).scalar() == 7
