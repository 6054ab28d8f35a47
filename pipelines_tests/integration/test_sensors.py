"""Sensors and schedules against a real instance and real files."""

import itertools
import os
import time

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test
from dagster._core.utils import make_new_backfill_id

from assets.partitions import GENES, SLIDES
from dermatome.hpa.pages import parse_page
from dermatome.hpa.records import write_records
from dermatome.hpa.stage import RECORDS_FILE
from dermatome.slides.register import read_sources
from dermatome.slides.source import SlideSource
from dermatome.storage.record import write_failure
from dermatome.synthetic.hpa_pages import ToyImage, gene_page_xml
from dermatome.synthetic.skin import toy_slide
from dermatome.warehouse.tables import FAILURES, TABLES
from orchestration import arrivals, schedules, sensors
from orchestration.definitions import build_defs
from orchestration.requests import PER_SLIDE, missing_slides, register_slides, subset_of
from resources import PathsResource

GENE = "ENSG00000186847"


def evaluate(sensor, root, instance, cursor=None, *, dies=False):
    """One tick, and what the daemon does with its answer unless the tick ``dies``."""
    defs = build_defs(root.path)
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        sensor_name=sensor.name,
        repository_def=defs.get_repository_def(),
        resources={"paths": PathsResource(root=str(root.path))},
    )
    tick = sensor.evaluate_tick(context)
    if not dies:
        for request in tick.dynamic_partitions_requests:
            instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        for request in tick.run_requests:
            if request.asset_graph_subset is not None:
                instance.add_backfill(backfill_of(request.asset_graph_subset))
    return tick


def logged(capfd, words):
    return [line for line in capfd.readouterr().err.splitlines() if words in line]


def failed(root, stage, slide):
    write_failure(root.failure(stage, slide), asset=stage, partition=slide, error="No.", kind="BadImage", run_id="r")


def backfill_of(subset):
    return PartitionBackfill.from_asset_graph_subset(
        backfill_id=make_new_backfill_id(),
        backfill_timestamp=time.time(),
        tags={},
        dynamic_partitions_store=None,
        asset_graph_subset=subset,
        title=None,
        description=None,
        run_config=None,
    )


def champion_made(root):
    record = root.record("tissue_champion", "current")
    record.parent.mkdir(parents=True)
    record.touch()


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """When a file was put into a folder cannot be made up."""
    monkeypatch.setattr(arrivals, "_SETTLED_S", 0)


def put(root, *names, data=b"not looked at yet"):
    root.inbox.mkdir(exist_ok=True)
    for name in names:
        (root.inbox / name).write_bytes(data)


def pages_read(root, instance, count, gene=GENE, address="https://images.proteinatlas.org"):
    images = [ToyImage("373", f"{number}_A_1_1", patient_id=str(number)) for number in range(count)]
    page = parse_page(gene_page_xml("KRT14", gene, address, images))
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
    source = read_sources(root.slide_sources)[slides[0]]
    assert (source.gene, source.ensembl_id, source.origin) == ("KRT14", GENE, "hpa")

    again = evaluate(sensors.new_hpa_images, root, instance, cursor=tick.cursor)
    assert not again.run_requests
    pages_read(root, instance, 4)
    third = evaluate(sensors.new_hpa_images, root, instance, cursor=tick.cursor)
    assert asked_for(third) == {"slide_images": ["373-3_A_1_1"]}


def test_with_a_champion_the_whole_chain_is_asked_for(root, instance):
    champion_made(root)
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


def test_slides_of_a_tick_that_died_are_asked_for_by_the_next(root, instance):
    champion_made(root)
    pages_read(root, instance, 4)
    evaluate(sensors.new_hpa_images, root, instance, dies=True)
    made, broken, other, promised = instance.get_dynamic_partitions(SLIDES.name)
    instance.report_runless_asset_event(dg.AssetMaterialization("slide_images", partition=made))
    failed(root, "slide_images", broken)
    instance.add_backfill(backfill_of(subset_of({"slide_images": [promised]})))
    tick = evaluate(sensors.new_hpa_images, root, instance)
    assert asked_for(tick) == {
        "slide_images": [other],
        "epidermis_masks": [made, other, promised],
        "cell_masks": [made, other, promised],
        "epidermis_layers": [made, other, promised],
    }, "what failed is the nightly job's, at the stages after too; what a backfill is about to make is not asked twice"


@pytest.mark.parametrize("damage", ["missing", "damaged", "a folder"])
def test_a_gene_whose_records_cannot_be_read_is_passed_over_aloud(root, instance, damage, capfd):
    pages_read(root, instance, 1, gene="ENSG00000000001")
    records = root.folder("hpa_images", "ENSG00000000001") / RECORDS_FILE
    records.unlink()
    if damage == "damaged":
        records.write_bytes(b"PAR1 and no more")
    elif damage == "a folder":
        records.mkdir()
    pages_read(root, instance, 2)
    tick = evaluate(sensors.new_hpa_images, root, instance)
    assert asked_for(tick) == {"slide_images": ["373-0_A_1_1", "373-1_A_1_1"]}
    (said,) = logged(capfd, "passed over")
    assert "ENSG00000000001" in said
    assert "materialize hpa_images" in said
    assert evaluate(sensors.new_hpa_images, root, instance, cursor=tick.cursor).skip_message


def test_an_image_that_hpa_moved_gets_its_new_address_and_is_asked_for_again(root, instance):
    champion_made(root)
    pages_read(root, instance, 2)
    tick = evaluate(sensors.new_hpa_images, root, instance)
    slides = ["373-0_A_1_1", "373-1_A_1_1"]
    for stage, slide in itertools.product(PER_SLIDE, slides):
        instance.report_runless_asset_event(dg.AssetMaterialization(stage, partition=slide))
    (backfill,) = instance.get_backfills()
    instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))
    pages_read(root, instance, 2, address="https://elsewhere.proteinatlas.org")
    moved = evaluate(sensors.new_hpa_images, root, instance, cursor=tick.cursor)
    for slide in slides:
        assert read_sources(root.slide_sources)[slide].location.startswith("https://elsewhere.proteinatlas.org/")
    assert asked_for(moved) == dict.fromkeys(PER_SLIDE, slides)
    pages_read(root, instance, 2, address="https://elsewhere.proteinatlas.org")
    assert not evaluate(sensors.new_hpa_images, root, instance, cursor=moved.cursor).run_requests


def test_an_image_that_two_pages_place_differently_has_moved_only_where_the_last_counts(root, instance):
    there, elsewhere = (SlideSource("a", "hpa", f"https://{host}/a.jpg") for host in "xy")
    register_slides(instance, root, [there])
    assert register_slides(instance, root, [elsewhere, there]) == []
    assert register_slides(instance, root, [there, elsewhere]) == ["a"]


def test_registering_leaves_alone_what_has_not_moved_and_what_is_of_another_origin(root, instance):
    register_slides(
        instance, root, [SlideSource("a", "hpa", "https://x/a.jpg", "KRT14"), SlideSource("b", "folder", "/b.jpg")]
    )
    sources = [SlideSource("a", "hpa", "https://x/a.jpg", "KRT5"), SlideSource("b", "hpa", "https://x/b.jpg")]
    assert register_slides(instance, root, [*sources, SlideSource("c", "hpa", "https://x/c.jpg")]) == ["c"]
    assert read_sources(root.slide_sources)["a"].gene == "KRT14"
    assert read_sources(root.slide_sources)["b"].origin == "folder"


def test_image_folder_takes_images_with_usable_names(root, instance, capfd):
    put(
        root,
        "core-1.jpg",
        "core-2.png",
        "-bad name.jpg",
        "core-1.tif",
        "notes.txt",
        data=toy_slide(1, size_px=100).jpeg(),
    )
    tick = evaluate(sensors.image_folder, root, instance)
    assert asked_for(tick)["slide_images"] == ["core-1", "core-2"]
    assert instance.get_dynamic_partitions(SLIDES.name) == ["core-1", "core-2"]
    assert read_sources(root.slide_sources)["core-1"].location == str(root.inbox / "core-1.jpg")
    bad, clash = logged(capfd, " - ")[:2]
    assert "-bad name" in bad
    assert "core-1.tif" in clash
    assert not evaluate(sensors.image_folder, root, instance).run_requests


def test_an_image_that_may_still_be_being_copied_is_left_to_the_next_tick(root, instance, monkeypatch):
    put(root, "a.jpg")
    with monkeypatch.context() as patch:
        patch.setattr(arrivals, "_SETTLED_S", 600)
        assert not evaluate(sensors.image_folder, root, instance).run_requests
    assert asked_for(evaluate(sensors.image_folder, root, instance)) == {"slide_images": ["a"]}


def test_an_image_whose_scanner_has_a_wrong_clock_is_taken_when_it_comes_and_when_it_is_replaced(root, instance):
    put(root, "a.jpg", "b.jpg")
    cursor = None
    for _ in range(2):
        os.utime(root.inbox / "a.jpg", (time.time() + 1e8,) * 2)
        tick = evaluate(sensors.image_folder, root, instance, cursor)
        assert "a" in asked_for(tick)["slide_images"]
        cursor = tick.cursor
        time.sleep(0.02)  # a file's times are those of the kernel's last tick
    assert instance.get_dynamic_partitions(SLIDES.name) == ["a", "b"]
    assert not evaluate(sensors.image_folder, root, instance, cursor).run_requests


def test_images_of_a_storage_whose_clock_is_ahead_hold_nothing_back_and_are_said(root, instance, monkeypatch, capfd):
    put(root, "a.jpg", "late.jpg")
    changed, ahead_s = dict.fromkeys(("a.jpg", "late.jpg"), time.time()), 1e8
    changed["late.jpg"] += ahead_s
    monkeypatch.setattr(sensors, "changed_in", lambda folder: changed)
    first = evaluate(sensors.image_folder, root, instance)
    assert asked_for(first) == {"slide_images": ["a", "late"]}
    assert not logged(capfd, "still to come")
    changed["a.jpg"] = time.time()
    again = evaluate(sensors.image_folder, root, instance, first.cursor)
    assert asked_for(again) == {"slide_images": ["a"]}, "the cursor does not run ahead"
    (said,) = logged(capfd, "still to come")
    assert "(late)" in said
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 2 * ahead_s)
    assert asked_for(evaluate(sensors.image_folder, root, instance, again.cursor)) == {"slide_images": ["late"]}


def test_an_image_of_the_inbox_whose_slide_is_known_from_elsewhere_is_said_once_a_tick(root, instance, capfd):
    register_slides(instance, root, [SlideSource(name, "hpa", f"https://x/{name}.jpg") for name in "abcdefg"])
    put(root, "own.jpg", *(f"{name}.jpg" for name in "abcdefg"))
    for asked in (True, False):
        assert bool(evaluate(sensors.image_folder, root, instance).run_requests) == asked
        (said,) = logged(capfd, "not taken")
        assert "7 images are not taken" in said
        assert f"{root.inbox / 'a.jpg'} (slide a is https://x/a.jpg)" in said
        assert "own.jpg" not in said
    assert read_sources(root.slide_sources)["a"].origin == "hpa"


def test_an_image_of_hpa_whose_slide_came_from_the_inbox_is_said(root, instance, capfd):
    put(root, "373-0_A_1_1.jpg")
    evaluate(sensors.image_folder, root, instance)
    pages_read(root, instance, 1)
    evaluate(sensors.new_hpa_images, root, instance)
    (said,) = logged(capfd, "not taken")
    assert str(root.inbox / "373-0_A_1_1.jpg") in said
    assert read_sources(root.slide_sources)["373-0_A_1_1"].origin == "folder"


def test_image_folder_goes_on_tick_by_tick(root, instance, monkeypatch):
    monkeypatch.setattr(sensors, "SLIDES_A_TICK", 1)
    put(root, "a.jpg", "b.jpg", "c.jpg")
    cursor = None
    for slide in ("a", "b", "c"):
        tick = evaluate(sensors.image_folder, root, instance, cursor)
        assert asked_for(tick) == {"slide_images": [slide]}
        cursor = tick.cursor
    assert not evaluate(sensors.image_folder, root, instance, cursor).run_requests


def test_an_image_that_was_replaced_is_asked_for_again(root, instance, monkeypatch):
    champion_made(root)
    put(root, "a.jpg", "b.jpg", "c.jpg")
    cursor = evaluate(sensors.image_folder, root, instance).cursor
    time.sleep(0.02)  # a file's times are those of the kernel's last tick
    put(root, "other.jpg", data=b"another image")
    old = time.time() - 1e6
    os.utime(root.inbox / "other.jpg", (old, old))
    (root.inbox / "other.jpg").replace(root.inbox / "b.jpg")
    put(root, "c.jpg", data=b"another one")
    monkeypatch.setattr(sensors, "SLIDES_A_TICK", 1)
    for slide in ("b", "c"):
        tick = evaluate(sensors.image_folder, root, instance, cursor)
        assert asked_for(tick) == {stage: [slide] for stage in PER_SLIDE}
        assert not tick.dynamic_partitions_requests
        cursor = tick.cursor
    assert not evaluate(sensors.image_folder, root, instance, cursor).run_requests


def test_an_image_that_moved_is_taken_from_where_it_is_now(root, instance, capfd):
    register_slides(instance, root, [SlideSource(name, "folder", f"/gone/{name}.jpg") for name in "ab"])
    put(root, "a.jpg", "b.jpg")
    tick = evaluate(sensors.image_folder, root, instance)
    assert asked_for(tick) == {"slide_images": ["a", "b"]}
    assert read_sources(root.slide_sources)["a"].location == str(root.inbox / "a.jpg")
    (root.inbox / "a.jpg").rename(root.inbox / "a.png")
    put(root, "b.png")
    assert asked_for(evaluate(sensors.image_folder, root, instance, tick.cursor)) == {"slide_images": ["a"]}
    (said,) = logged(capfd, "not taken")
    assert "b.png" in said


def test_image_folder_reads_no_image_in_a_tick(root, instance):
    put(root, "huge.tif")
    os.truncate(root.inbox / "huge.tif", 1 << 40)
    os.utime(root.inbox / "huge.tif", (0, 0))
    started = time.monotonic()
    assert asked_for(evaluate(sensors.image_folder, root, instance)) == {"slide_images": ["huge"]}
    assert time.monotonic() - started < 10


def test_images_of_a_tick_that_died_are_taken_by_the_next(root, instance):
    put(root, "a.jpg")
    evaluate(sensors.image_folder, root, instance, dies=True)
    assert asked_for(evaluate(sensors.image_folder, root, instance)) == {"slide_images": ["a"]}


def test_a_slide_whose_source_was_deleted_is_registered_from_the_inbox_again(root, instance):
    register_slides(instance, root, [SlideSource("a", "hpa", "https://x/a.jpg")])
    (table,) = root.slide_sources.iterdir()
    table.unlink()
    put(root, "a.jpg")
    assert asked_for(evaluate(sensors.image_folder, root, instance)) == {"slide_images": ["a"]}
    assert read_sources(root.slide_sources)["a"].location == str(root.inbox / "a.jpg")


def test_annotation_folder_registers_only(root, instance):
    (root.annotations / "slide-1").mkdir(parents=True)
    (root.annotations / "a file").touch()
    tick = evaluate(sensors.annotation_folder, root, instance)
    assert not tick.run_requests
    (request,) = tick.dynamic_partitions_requests
    assert list(request.partition_keys) == ["slide-1"]


def made(instance, asset):
    instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition="s"))


def metrics_run(instance, tick, status, **options):
    """What the daemon would make of the tick's request."""
    (request,) = tick.run_requests
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "all"), "refresh_metrics")
    options = {"tags": request.tags, "remote_job_origin": origin} | options
    return create_run_for_test(instance, "refresh_metrics", status=status, **options)


def test_fresh_metrics_asks_once_for_each_state(root, instance):
    assert not evaluate(sensors.fresh_metrics, root, instance).run_requests
    made(instance, "epidermis_layers")
    metrics_run(instance, evaluate(sensors.fresh_metrics, root, instance), dg.DagsterRunStatus.SUCCESS)
    assert not evaluate(sensors.fresh_metrics, root, instance).run_requests
    made(instance, "epidermis_layers")
    assert len(evaluate(sensors.fresh_metrics, root, instance).run_requests) == 1


def test_fresh_metrics_follows_all_that_the_store_holds(root, instance):
    held = {table.asset for table in TABLES.values()} - {FAILURES}
    assert held <= {key.to_user_string() for key in build_defs(root.path).resolve_asset_graph().get_all_asset_keys()}
    states = [""]
    for asset in (*sorted(held), FAILURES):
        if asset == FAILURES:
            failed(root, "slide_images", "s")
        else:
            made(instance, asset)
        states.append(sensors._state_of_what_is_stored(instance, root))
        assert states[-1] != states[-2], f"nobody noticed that {asset} was made"
    (request,) = evaluate(sensors.fresh_metrics, root, instance).run_requests
    assert states[-1] in request.tags.values()


def test_a_refresh_that_failed_is_asked_for_again_after_a_while(root, instance, monkeypatch):
    made(instance, "cell_weights")
    run = metrics_run(instance, evaluate(sensors.fresh_metrics, root, instance), dg.DagsterRunStatus.STARTED)
    instance.report_run_failed(run)
    made(instance, "cell_weights")
    tick = evaluate(sensors.fresh_metrics, root, instance)
    assert not tick.run_requests, "not at once, not even with something new"
    assert run.run_id in tick.skip_message
    monkeypatch.setattr(sensors, "_AGAIN_S", 0)
    metrics_run(instance, evaluate(sensors.fresh_metrics, root, instance), dg.DagsterRunStatus.SUCCESS)
    assert not evaluate(sensors.fresh_metrics, root, instance).run_requests


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED])
@pytest.mark.parametrize("by_hand", [True, False])
def test_no_refresh_is_asked_for_while_one_is_on_its_way(root, instance, monkeypatch, status, by_hand):
    monkeypatch.setattr(sensors, "_AGAIN_S", 0)
    made(instance, "cell_weights")
    tick = evaluate(sensors.fresh_metrics, root, instance)
    metrics_run(instance, tick, status, **({"tags": {}} if by_hand else {}))
    made(instance, "cell_weights")
    assert not evaluate(sensors.fresh_metrics, root, instance).run_requests


def test_a_refresh_that_was_never_started_is_not_waited_for_long(root, instance, monkeypatch):
    made(instance, "cell_weights")
    metrics_run(instance, evaluate(sensors.fresh_metrics, root, instance), dg.DagsterRunStatus.NOT_STARTED)
    assert not evaluate(sensors.fresh_metrics, root, instance).run_requests
    monkeypatch.setattr(sensors, "_AGAIN_S", 0)
    assert evaluate(sensors.fresh_metrics, root, instance).run_requests


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
    job = build_defs(root.path).resolve_job_def("infer")
    assert job.execute_in_process(instance=instance).success
    (backfill,) = instance.get_backfills()
    wanted = backfill.asset_backfill_data.target_subset.partitions_subsets_by_asset_key
    assert {key.to_user_string(): sorted(part.get_partition_keys()) for key, part in wanted.items()} == {
        "slide_images": ["a", "b", "c"]
    }, "what lies between is made, and asked for so that there is one run and not two"
    assert job.execute_in_process(instance=instance).success
    assert len(instance.get_backfills()) == 1, "the first is still going on"


def test_what_failed_to_be_made_again_is_missing(root, instance):
    instance.add_dynamic_partitions(SLIDES.name, ["a.b", "c", "d"])
    for slide in ("a.b", "c"):
        instance.report_runless_asset_event(dg.AssetMaterialization("slide_images", partition=slide))
    failed(root, "slide_images", "a.b")
    assert missing_slides(instance, root, ["slide_images"]) == {"slide_images": ["a.b", "d"]}


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
