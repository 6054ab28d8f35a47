"""Sensors and schedules against a real instance and real files."""

import os
import time

import dagster as dg
import pytest

from assets.partitions import GENES, SLIDES
from dermatome.data_root import DataRoot
from dermatome.demo.pages import ToyImage, gene_page_xml
from dermatome.hpa.records import parse_page, write_records
from dermatome.hpa.stage import RECORDS_FILE
from dermatome.slide_source import read_source
from dermatome.toy import toy_slide
from orchestration import schedules, sensors
from orchestration.definitions import build_defs
from resources import PathsResource

GENE = "ENSG00000186847"


@pytest.fixture
def root(tmp_path):
    return DataRoot(tmp_path)


@pytest.fixture
def instance():
    with dg.instance_for_test() as found:
        yield found


def evaluate(sensor, root, instance, cursor=None):
    defs = build_defs(root.path)
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        sensor_name=sensor.name,
        repository_def=defs.get_repository_def(),
        resources={"paths": PathsResource(root=str(root.path))},
    )
    return sensor.evaluate_tick(context)


def pages_read(root, instance, count, gene=GENE):
    images = [ToyImage("373", f"{number}_A_1_1", patient_id=str(number)) for number in range(count)]
    page = parse_page(gene_page_xml("KRT14", gene, "https://images.proteinatlas.org", images))
    write_records(page.records, root.folder("hpa_images", gene) / RECORDS_FILE)
    instance.add_dynamic_partitions(GENES.name, [gene])
    instance.report_runless_asset_event(dg.AssetMaterialization("hpa_images", partition=gene))


def asked_for(tick):
    (request,) = tick.run_requests
    subset = request.asset_graph_subset
    return {
        key.to_user_string(): sorted(part.get_partition_keys())
        for key, part in subset.partitions_subsets_by_asset_key.items()
    }


def test_new_hpa_images_registers_slides_once_and_asks_for_what_can_be_made(root, instance):
    pages_read(root, instance, 3)
    tick = evaluate(sensors.new_hpa_images, root, instance)
    slides = ["373-0_A_1_1", "373-1_A_1_1", "373-2_A_1_1"]
    assert instance.get_dynamic_partitions(SLIDES.name) == slides
    assert asked_for(tick) == {"slide_images": slides}, "without a champion, masks cannot be made"
    source = read_source(root.source(slides[0]))
    assert (source.gene, source.ensembl_id, source.origin) == ("KRT14", GENE, "hpa")

    again = evaluate(sensors.new_hpa_images, root, instance, cursor=tick.cursor)
    assert not again.run_requests
    pages_read(root, instance, 4)
    third = evaluate(sensors.new_hpa_images, root, instance, cursor=tick.cursor)
    assert asked_for(third) == {"slide_images": ["373-3_A_1_1"]}


def test_with_a_champion_the_whole_chain_is_asked_for(root, instance):
    record = root.record("tissue_champion", "current")
    record.parent.mkdir(parents=True)
    record.touch()
    pages_read(root, instance, 1)
    tick = evaluate(sensors.new_hpa_images, root, instance)
    assert set(asked_for(tick)) == {"slide_images", "epidermis_masks", "cell_masks", "epidermis_layers"}


def test_a_tick_is_bounded_and_the_next_goes_on(root, instance, monkeypatch):
    monkeypatch.setattr(sensors, "SLIDES_A_TICK", 2)
    for number in range(3):
        pages_read(root, instance, 2, gene=f"ENSG0000000000{number}")
    # The same addresses on each page: only the first gene's are new.
    first = evaluate(sensors.new_hpa_images, root, instance)
    assert len(instance.get_dynamic_partitions(SLIDES.name)) == 2
    second = evaluate(sensors.new_hpa_images, root, instance, cursor=first.cursor)
    assert int(second.cursor) > int(first.cursor)


def test_image_folder_takes_settled_images_with_usable_names(root, instance):
    root.inbox.mkdir()
    jpeg = toy_slide(1, size_px=100).jpeg()
    old = time.time() - 60
    for name in ("core-1.jpg", "core-2.png", "-bad name.jpg", "core-1.tif", "notes.txt"):
        (root.inbox / name).write_bytes(jpeg)
        os.utime(root.inbox / name, (old, old))
    (root.inbox / "just-now.jpg").write_bytes(jpeg)
    tick = evaluate(sensors.image_folder, root, instance)
    assert asked_for(tick)["slide_images"] == ["core-1", "core-2"]
    assert read_source(root.source("core-1")).location == str(root.inbox / "core-1.jpg")
    assert not evaluate(sensors.image_folder, root, instance).run_requests


def test_annotation_folder_registers_only(root, instance):
    (root.annotations / "slide-1").mkdir(parents=True)
    (root.annotations / "a file").touch()
    tick = evaluate(sensors.annotation_folder, root, instance)
    assert not tick.run_requests
    (request,) = tick.dynamic_partitions_requests
    assert list(request.partition_keys) == ["slide-1"]


def test_fresh_metrics_asks_once_for_each_state(root, instance):
    assert not evaluate(sensors.fresh_metrics, root, instance).run_requests
    instance.report_runless_asset_event(dg.AssetMaterialization("epidermis_layers", partition="s"))
    tick = evaluate(sensors.fresh_metrics, root, instance)
    assert len(tick.run_requests) == 1
    assert not evaluate(sensors.fresh_metrics, root, instance, cursor=tick.cursor).run_requests


def test_refresh_hpa_asks_for_all_genes_in_ranges(instance, monkeypatch):
    monkeypatch.setattr(schedules, "_GENES_A_RUN", 2)
    genes = [f"ENSG0000000000{number}" for number in range(5)]
    instance.add_dynamic_partitions(GENES.name, genes)
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=dg._time.get_current_datetime())
    requests = schedules.refresh_hpa(context)
    ranges = [
        (r.tags["dagster/asset_partition_range_start"], r.tags["dagster/asset_partition_range_end"]) for r in requests
    ]
    assert ranges == [(genes[0], genes[1]), (genes[2], genes[3]), (genes[4], genes[4])]
    assert len({r.run_key for r in requests}) == 3


def test_the_nightly_job_asks_for_what_is_missing_and_not_twice(root, instance):
    instance.add_dynamic_partitions(SLIDES.name, ["a", "b", "c"])
    instance.report_runless_asset_event(dg.AssetMaterialization("slide_images", partition="b"))
    job = build_defs(root.path).resolve_job_def("backfill_missing")
    assert job.execute_in_process(instance=instance).success
    (backfill,) = instance.get_backfills()
    wanted = backfill.asset_backfill_data.target_subset.partitions_subsets_by_asset_key
    assert {key.to_user_string(): sorted(part.get_partition_keys()) for key, part in wanted.items()} == {
        "slide_images": ["a", "c"]
    }
    assert job.execute_in_process(instance=instance).success
    assert len(instance.get_backfills()) == 1, "the first is still going on"


def test_register_genes_takes_a_list_and_a_file(root, instance, tmp_path):
    listed = tmp_path / "genes.tsv"
    listed.write_text("Gene\tEnsembl\nKRT10\tENSG00000186395\nKRT14\tENSG00000186847\n")
    job = build_defs(root.path).resolve_job_def("register_genes")
    for _ in range(2):
        config = {"ops": {"add_genes": {"config": {"file": str(listed), "ensembl_ids": ["ENSG00000096696"]}}}}
        assert job.execute_in_process(instance=instance, run_config=config).success
    assert instance.get_dynamic_partitions(GENES.name) == ["ENSG00000186395", "ENSG00000186847", "ENSG00000096696"]
    empty = job.execute_in_process(
        instance=instance, run_config={"ops": {"add_genes": {"config": {}}}}, raise_on_error=False
    )
    assert not empty.success
