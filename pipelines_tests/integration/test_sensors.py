"""Sensors against a real instance and real files."""

import itertools
import os
import time
from functools import cache
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test

from assets.partitions import GENES, SLIDES
from dermatome.hpa.pages import parse_page
from dermatome.hpa.records import RECORDS_FILE, write_records
from dermatome.slides.register import read_sources
from dermatome.slides.source import SlideSource
from dermatome.storage.layout import FAILURES
from dermatome.storage.record import write_failure
from dermatome.synthetic.hpa_pages import ToyImage, gene_page_xml
from dermatome.warehouse.tables import TABLES
from orchestration import sensors
from orchestration.definitions import build_defs
from orchestration.requests import NUCLEI, PER_SLIDE, SKIN, register_slides
from resources import PathsResource
from resources.dagster_private import request_backfill, subset_of

GENE = "ENSG00000186847"


@cache
def repository():
    return build_defs(Path("no data root")).get_repository_def()


def evaluate(sensor, root, instance, cursor=None, *, dies=False):
    """One tick, and what the daemon does with its answer unless the tick ``dies``."""
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, sensor_name=sensor.name, repository_def=repository(),
        resources={"paths": PathsResource(root=str(root.path))},
    )  # fmt: skip
    tick = sensor.evaluate_tick(context)
    if not dies:
        for request in tick.dynamic_partitions_requests:
            instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        for request in tick.run_requests:
            if request.asset_graph_subset is not None:
                request_backfill(instance, request.asset_graph_subset, "", {})
    return tick


def logged(capfd, words):
    return [line for line in capfd.readouterr().err.splitlines() if words in line]


def failed(root, stage, slide):
    write_failure(root.failure(stage, slide), asset=stage, partition=slide, error="No.", kind="BadImage", run_id="r")


def champion_made(root):
    record = root.record("tissue_champion", "current")
    record.parent.mkdir(parents=True)
    record.touch()


class Inbox:
    """An inbox of slides, its sensor, and what that requests."""

    def __init__(self, root, instance, chain):
        self.root, self.instance, self.chain = root, instance, chain
        self.folder = root.inbox if chain is SKIN else root.nuclei_inbox
        self.sensor = sensors.image_folder if chain is SKIN else sensors.nuclei_slide_folder

    def put(self, *names, data=b"not looked at yet"):
        for name in names:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(data)

    def tick(self, cursor=None, **options):
        return evaluate(self.sensor, self.root, self.instance, cursor, **options)

    def requested(self, tick):
        """Slides that are requested from the first stage on."""
        return asked_for(tick)[self.chain.stages[0]] if tick.run_requests else []


@pytest.fixture(params=[SKIN, NUCLEI], ids=["skin", "nuclei"])
def inbox(request, root, instance):
    return Inbox(root, instance, request.param)


@pytest.fixture
def skin_inbox(root, instance):
    return Inbox(root, instance, SKIN)


@pytest.fixture
def nuclei_inbox(root, instance):
    return Inbox(root, instance, NUCLEI)


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """When a file was put into a folder cannot be made up."""
    monkeypatch.setattr(sensors, "_SETTLED_S", 0)


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


def test_a_tick_is_bounded_and_the_next_goes_on(root, instance, monkeypatch):
    monkeypatch.setattr(sensors, "_SLIDES_PER_TICK", 2)
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
    request_backfill(instance, subset_of({"slide_images": [promised]}, SLIDES), "", {})
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
    (said,) = logged(capfd, "are skipped")
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


def test_image_folder_takes_images_with_usable_names(root, instance, skin_inbox, capfd):
    skin_inbox.put(
        "core-1.jpg", "core-2.png", "-core 3 (1).jpg", "core-1.tif", "notes.txt", "batch/a.jpg", "皮.jpg", "scan.svs"
    )
    tick = skin_inbox.tick()
    assert asked_for(tick)["slide_images"] == ["core-1", "core-2", "core-3-1", "scan"]
    assert sorted(instance.get_dynamic_partitions(SLIDES.name)) == ["core-1", "core-2", "core-3-1", "scan"]
    sources = read_sources(root.slide_sources)
    assert sources["core-1"].location == str(root.inbox / "core-1.jpg")
    assert sources["core-3-1"].location == str(root.inbox / "-core 3 (1).jpg")
    (clash,) = logged(capfd, "rename the files")
    assert "core-1.tif" in clash
    again = skin_inbox.tick(tick.cursor)
    assert not again.run_requests
    assert again.skip_message == (
        f"No slide is new or untried. Not taken from {root.inbox}: 1 files in folders (batch/a.jpg); "
        "1 files of a kind that is not read (notes.txt); "
        "1 files whose names have no letter of A to Z and no digit (皮.jpg); "
        "1 images of slides known from elsewhere (core-1.tif)."
    )
    assert not logged(capfd, "-core 3"), "a name is mapped, not refused every minute"


def test_links_that_lead_nowhere_or_round_in_an_inbox_stop_no_slide(root, skin_inbox):
    skin_inbox.put("core.jpg")
    for name, place in (("to-nowhere", "gone.jpg"), ("to-itself", "to-itself.jpg"), ("round", ".")):
        (root.inbox / f"{name}.jpg").symlink_to(place)
    assert asked_for(skin_inbox.tick())["slide_images"] == ["core"]


def test_an_image_of_the_inbox_whose_slide_is_known_from_elsewhere_is_said_once_a_tick(
    root, instance, skin_inbox, capfd
):
    register_slides(instance, root, [SlideSource(name, "hpa", f"https://x/{name}.jpg") for name in "abcdefg"])
    skin_inbox.put("own.jpg", *(f"{name}.jpg" for name in "abcdefg"))
    for asked in (True, False):
        assert bool(skin_inbox.tick().run_requests) == asked
        (said,) = logged(capfd, "not taken")
        assert "7 images are not taken" in said
        assert f"{root.inbox / 'a.jpg'} (slide a is https://x/a.jpg)" in said
        assert "own.jpg" not in said
    assert read_sources(root.slide_sources)["a"].origin == "hpa"


def test_an_image_that_moved_is_taken_from_where_it_is_now(root, instance, skin_inbox, capfd):
    register_slides(instance, root, [SlideSource(name, "folder", f"/gone/{name}.jpg") for name in "ab"])
    skin_inbox.put("a.jpg", "b.jpg")
    tick = skin_inbox.tick()
    assert asked_for(tick) == {"slide_images": ["a", "b"]}
    assert read_sources(root.slide_sources)["a"].location == str(root.inbox / "a.jpg")
    (root.inbox / "a.jpg").rename(root.inbox / "a.png")
    skin_inbox.put("b.png")
    assert asked_for(skin_inbox.tick(tick.cursor)) == {"slide_images": ["a"]}
    (said,) = logged(capfd, "not taken")
    assert "b.png" in said


def test_a_slide_whose_source_was_deleted_is_registered_from_the_inbox_again(root, instance, skin_inbox):
    register_slides(instance, root, [SlideSource("a", "hpa", "https://x/a.jpg")])
    (table,) = root.slide_sources.iterdir()
    table.unlink()
    skin_inbox.put("a.jpg")
    assert asked_for(skin_inbox.tick()) == {"slide_images": ["a"]}
    assert read_sources(root.slide_sources)["a"].location == str(root.inbox / "a.jpg")


def test_a_slide_that_may_still_be_being_copied_is_left_to_the_next_tick(inbox, monkeypatch):
    inbox.put("a.png")
    with monkeypatch.context() as patch:
        patch.setattr(sensors, "_SETTLED_S", 600)
        assert not inbox.tick().run_requests
    assert inbox.requested(inbox.tick()) == ["a"]


def test_a_slide_whose_scanner_has_a_wrong_clock_is_taken_when_it_comes_and_when_it_is_replaced(inbox, instance):
    inbox.put("a.png", "b.png")
    cursor = None
    for _ in range(2):
        os.utime(inbox.folder / "a.png", (time.time() + 1e8,) * 2)
        tick = inbox.tick(cursor)
        assert "a" in inbox.requested(tick)
        cursor = tick.cursor
        time.sleep(0.02)  # a file's times are those of the kernel's last tick
    assert instance.get_dynamic_partitions(inbox.chain.partitions) == ["a", "b"]
    assert not inbox.tick(cursor).run_requests


def test_slides_of_a_storage_whose_clock_is_ahead_hold_nothing_back_and_are_logged(inbox, monkeypatch, capfd):
    inbox.put("a.png", "late.png")
    changed, ahead_s = dict.fromkeys(("a.png", "late.png"), time.time()), 1e8
    changed["late.png"] += ahead_s
    monkeypatch.setattr(sensors, "changed_in", lambda folder, folders=False: changed)
    first = inbox.tick()
    assert inbox.requested(first) == ["a", "late"]
    assert not logged(capfd, "times in the future")
    changed["a.png"] = time.time()
    again = inbox.tick(first.cursor)
    assert inbox.requested(again) == ["a"], "the cursor does not run ahead"
    (said,) = logged(capfd, "times in the future")
    assert "(late)" in said
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 2 * ahead_s)
    assert inbox.requested(inbox.tick(again.cursor)) == ["late"]


def test_a_tick_takes_a_bounded_number_of_slides_and_the_next_continues(inbox, monkeypatch):
    monkeypatch.setattr(sensors, "_SLIDES_PER_TICK", 1)
    inbox.put("a.png", "b.png", "c.png")
    cursor = None
    for slide in ("a", "b", "c"):
        tick = inbox.tick(cursor)
        assert inbox.requested(tick) == [slide]
        cursor = tick.cursor
    assert not inbox.tick(cursor).run_requests


def test_a_slide_that_was_replaced_is_requested_again(inbox, monkeypatch):
    inbox.put("a.png", "b.png", "c.png")
    cursor = inbox.tick().cursor
    time.sleep(0.02)  # a file's times are those of the kernel's last tick
    inbox.put("other.png", data=b"another image")
    old = time.time() - 1e6
    os.utime(inbox.folder / "other.png", (old, old))
    (inbox.folder / "other.png").replace(inbox.folder / "b.png")
    inbox.put("c.png", data=b"another one")
    monkeypatch.setattr(sensors, "_SLIDES_PER_TICK", 1)
    for slide in ("b", "c"):
        tick = inbox.tick(cursor)
        assert inbox.requested(tick) == [slide]
        assert not tick.dynamic_partitions_requests
        cursor = tick.cursor
    assert not inbox.tick(cursor).run_requests


def test_no_image_is_read_in_a_tick(inbox):
    inbox.put("huge.tif")
    os.truncate(inbox.folder / "huge.tif", 1 << 40)
    os.utime(inbox.folder / "huge.tif", (0, 0))
    started = time.monotonic()
    assert inbox.requested(inbox.tick()) == ["huge"]
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("registered", [True, False])
def test_slides_of_a_tick_that_died_are_taken_by_the_next(inbox, instance, registered):
    inbox.put("a.png")
    tick = inbox.tick(dies=True)
    if registered:
        instance.add_dynamic_partitions(inbox.chain.partitions, tick.dynamic_partitions_requests[0].partition_keys)
    assert inbox.requested(inbox.tick()) == ["a"]


@pytest.mark.parametrize("has_weights", [True, False])
def test_what_can_be_computed_with_the_weights_there_are_is_requested(inbox, root, has_weights):
    if has_weights:
        champion_made(root)
    root.settings.write_text(f'nuclei_weights = "{"toy" if has_weights else ""}"\n')
    inbox.put("s1.png")
    stages = inbox.chain.stages if has_weights else inbox.chain.stages[:1]
    assert asked_for(inbox.tick()) == {stage: ["s1"] for stage in stages}


def test_known_slides_are_requested_when_the_weights_come_later(inbox, root):
    root.settings.write_text('nuclei_weights = ""\n')
    inbox.put("s1.png", "s2.png")
    first, *later = inbox.chain.stages
    tick = inbox.tick()
    assert asked_for(tick) == {first: ["s1", "s2"]}
    assert not inbox.tick(tick.cursor).run_requests
    champion_made(root)
    root.settings.write_text('nuclei_weights = "toy"\n')
    failed(root, first, "s2")
    tick = inbox.tick(tick.cursor)
    assert asked_for(tick) == {stage: ["s1"] for stage in later}, "the nightly schedule tries again what failed"
    assert not inbox.tick(tick.cursor).run_requests


def test_a_dicom_folder_is_one_slide_and_loose_files_are_none_and_said_once(root, instance, inbox, capfd):
    inbox.put("s1/1.dcm", "s1/2.dcm", "s1/label.dcm", "s2.svs", "notes/a.txt", "-s3/1.dcm", "loose.dcm", "more.dcm")
    first = inbox.tick()
    assert inbox.requested(first) == ["s1", "s2", "s3"]
    assert sorted(instance.get_dynamic_partitions(inbox.chain.partitions)) == ["s1", "s2", "s3"]
    if inbox.chain is SKIN:
        origins = {slide: source.origin for slide, source in read_sources(root.slide_sources).items()}
        assert origins == {"s1": "dicom", "s2": "folder", "s3": "dicom"}
    (loose,) = logged(capfd, " - ERROR - ")
    assert "2 DICOM files lie directly in" in loose
    assert "(loose.dcm, more.dcm)" in loose
    assert not inbox.tick(first.cursor).run_requests


def test_a_slide_of_two_images_is_not_taken_and_said(nuclei_inbox, capfd):
    nuclei_inbox.put("s1.svs", "s1.tif", "s2.svs", "s2/1.dcm", "s3.png")
    assert asked_for(nuclei_inbox.tick()) == {"nuclei_slides": ["s3"]}
    (said,) = logged(capfd, "more than one image")
    assert "2 slides" in said
    assert "(s1, s2)" in said


def test_a_folder_waits_for_its_last_file_and_holds_back_no_other(nuclei_inbox, monkeypatch):
    nuclei_inbox.put("s1/1.dcm", "s1/2.dcm", "s2.svs")
    now = time.time()
    changed = {"s1/1.dcm": now - 700, "s1/2.dcm": now - 500, "s2.svs": now - 650}
    monkeypatch.setattr(sensors, "changed_in", lambda inbox, folders=False: changed)
    monkeypatch.setattr(sensors, "_SETTLED_S", 600)
    first = nuclei_inbox.tick()
    assert asked_for(first) == {"nuclei_slides": ["s2"]}
    changed["s1/2.dcm"] = now - 640
    assert asked_for(nuclei_inbox.tick(first.cursor)) == {"nuclei_slides": ["s1"]}


def test_a_folder_is_asked_for_again_when_a_file_of_it_changes_or_goes(nuclei_inbox):
    nuclei_inbox.put("s1/1.dcm", "s1/2.dcm", "s2/1.dcm")
    cursor = nuclei_inbox.tick().cursor
    for change in (lambda: nuclei_inbox.put("s1/2.dcm"), lambda: (nuclei_inbox.folder / "s1" / "2.dcm").unlink()):
        time.sleep(0.02)  # a file's times are those of the kernel's last tick
        change()
        again = nuclei_inbox.tick(cursor)
        assert asked_for(again) == {"nuclei_slides": ["s1"]}
        assert not again.dynamic_partitions_requests
        cursor = again.cursor


@pytest.mark.parametrize(
    ("sensor", "folder"),
    [(sensors.annotation_folder, "annotations"), (sensors.nuclei_case_folder, "nuclei_annotations")],
)
def test_folders_of_annotations_are_registered_only(root, instance, sensor, folder, capfd):
    (root.path / folder / "slide-1").mkdir(parents=True)
    (root.path / folder / "-bad").mkdir()
    (root.path / folder / "a file").touch()
    tick = evaluate(sensor, root, instance)
    assert not tick.run_requests
    (request,) = tick.dynamic_partitions_requests
    assert list(request.partition_keys) == ["slide-1"]
    assert logged(capfd, "1 folders (-bad)")
    assert "must be renamed: 1 folders (-bad)" in evaluate(sensor, root, instance).skip_message


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
        states.append(sensors._state_of_results(instance, root))
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
    monkeypatch.setattr(sensors, "_RETRY_METRICS_S", 0)
    metrics_run(instance, evaluate(sensors.fresh_metrics, root, instance), dg.DagsterRunStatus.SUCCESS)
    assert not evaluate(sensors.fresh_metrics, root, instance).run_requests


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED])
@pytest.mark.parametrize("by_hand", [True, False])
def test_no_refresh_is_asked_for_while_one_is_on_its_way(root, instance, monkeypatch, status, by_hand):
    monkeypatch.setattr(sensors, "_RETRY_METRICS_S", 0)
    made(instance, "cell_weights")
    tick = evaluate(sensors.fresh_metrics, root, instance)
    metrics_run(instance, tick, status, **({"tags": {}} if by_hand else {}))
    made(instance, "cell_weights")
    assert not evaluate(sensors.fresh_metrics, root, instance).run_requests
