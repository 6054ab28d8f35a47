"""Slides of nuclei are asked for as those of skin are: what is missing, what failed, what was replaced."""

import dagster as dg
import pytest

from assets.partitions import BY_INFER_NUCLEI, NUCLEI_SLIDES, REQUESTED_BY
from dermatome.storage.record import write_failure
from orchestration import arrivals, schedules, sensors_nuclei
from orchestration.definitions import build_defs
from orchestration.requests import NUCLEI_PER_SLIDE
from resources import PathsResource


def failed(root, stage, slide):
    write_failure(root.failure(stage, slide), asset=stage, partition=slide, error="No.", kind="BadImage", run_id="r")


def infer(root, instance, **config):
    """What the job's last backfill is to make."""
    job = build_defs(root.path).resolve_job_def("infer_nuclei")
    config = {"ops": {"request_missing_nuclei": {"config": config}}}
    assert job.execute_in_process(instance=instance, run_config=config).success
    backfills = instance.get_backfills()
    return (slides_of(backfills[0].asset_backfill_data.target_subset), backfills[0].tags) if backfills else None


def slides_of(subset):
    return {
        key.to_user_string(): sorted(part.get_partition_keys())
        for key, part in subset.partitions_subsets_by_asset_key.items()
    }


def test_what_is_missing_or_failed_is_asked_for_at_every_stage(root, instance):
    root.settings.write_text('nuclei_weights = "toy"\n')
    instance.add_dynamic_partitions(NUCLEI_SLIDES.name, ["made", "broken", "new"])
    for stage in NUCLEI_PER_SLIDE:
        instance.report_runless_asset_event(dg.AssetMaterialization(stage, partition="made"))
    failed(root, "nuclei_slides", "broken")
    failed(root, "til_scores", "made")
    asked, tags = infer(root, instance)
    assert asked == {
        "nuclei_slides": ["broken", "new"],
        "nucleus_maps": ["broken", "new"],
        "til_scores": ["broken", "made", "new"],
    }
    assert tags[REQUESTED_BY] == BY_INFER_NUCLEI
    infer(root, instance)
    assert len(instance.get_backfills()) == 1, "the first is still going on"


def test_by_night_what_failed_waits_for_its_turn(root, instance):
    root.settings.write_text('nuclei_weights = "toy"\n')
    instance.add_dynamic_partitions(NUCLEI_SLIDES.name, ["broken", "new"])
    failed(root, "nuclei_slides", "broken")
    by_night = schedules.backfill_new_nuclei.evaluate_tick(dg.build_schedule_context(instance=instance))
    (request,) = by_night.run_requests
    asked, _ = infer(root, instance, **request.run_config["ops"]["request_missing_nuclei"]["config"])
    assert asked == {stage: ["new"] for stage in NUCLEI_PER_SLIDE}


@pytest.mark.parametrize("named", ["", "n007"])
def test_without_a_network_only_slides_are_asked_for_and_the_log_says_why(root, instance, named, capfd):
    root.settings.write_text(f'nuclei_weights = "{named}"\n')
    instance.add_dynamic_partitions(NUCLEI_SLIDES.name, ["new"])
    asked, _ = infer(root, instance)
    assert asked == {"nuclei_slides": ["new"]}
    assert "nuclei are not looked for" in capfd.readouterr().err


@pytest.mark.parametrize(("network", "stages"), [("toy", NUCLEI_PER_SLIDE), ("", NUCLEI_PER_SLIDE[:1])])
def test_a_slide_of_the_inbox_is_asked_for_as_far_as_it_can_be_made(root, instance, network, stages, monkeypatch):
    root.settings.write_text(f'nuclei_weights = "{network}"\n')
    root.nuclei_inbox.mkdir()
    (root.nuclei_inbox / "s1.png").touch()
    context = dg.build_sensor_context(
        instance=instance,
        sensor_name="nuclei_slide_folder",
        repository_def=build_defs(root.path).get_repository_def(),
        resources={"paths": PathsResource(root=str(root.path))},
    )
    monkeypatch.setattr(arrivals, "_SETTLED_S", 0)
    tick = sensors_nuclei.nuclei_slide_folder.evaluate_tick(context)
    (request,) = tick.run_requests
    assert slides_of(request.asset_graph_subset) == {stage: ["s1"] for stage in stages}
