"""Sixty slides through the real daemon and web server, three of them bad; and one that a sensor finds."""

import json
import os
import time

import dagster as dg
import pytest

from dermatome.classes import StainingPattern
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import read_record
from dermatome.synthetic.skin import toy_slide
from orchestration.requests import register_slides
from pipelines_tests.e2e.platform import Platform, counts, hpa_slides
from pipelines_tests.faulty_hpa_server import FaultyHpaServer

SLIDES = 60
BAD = {17: "cut short", 31: "a web page", 48: "404"}

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def atlas():
    drawn = [toy_slide(seed, StainingPattern.WHOLE, size_px=160).jpeg() for seed in range(4)]
    with FaultyHpaServer() as server:
        server.images = {f"/images/700/{number}_A.jpg": drawn[number % 4] for number in range(SLIDES)}
        good = dict(server.images)
        server.images["/images/700/17_A.jpg"] = drawn[0][:2000]
        server.images["/images/700/31_A.jpg"] = b"<!DOCTYPE html><html>not here</html>"
        del server.images["/images/700/48_A.jpg"]
        server.good = good
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory, atlas):
    """A data root, its platform, its instance."""
    root = DataRoot(tmp_path_factory.mktemp("backfill") / "data")
    sources = hpa_slides(root, atlas.url, SLIDES)
    with Platform(root.path) as platform, platform.instance() as instance:
        assert register_slides(instance, root, sources) == [source.slide for source in sources]
        yield root, platform, instance


def test_three_bad_slides_fail_alone_and_are_retried_alone(running, atlas):
    root, platform, _ = running
    slides = [f"700-{number}_A" for number in range(SLIDES)]
    bad = [slides[number] for number in BAD]
    first = platform.backfill(["slide_images"], slides)
    assert counts(platform.finished(first)) == {"slide_images": (SLIDES, SLIDES - 3, 3)}

    reasons = failure_reasons(platform)
    assert set(reasons) == set(bad)
    assert "damaged or cut short" in reasons["700-17_A"]
    assert "web page" in reasons["700-31_A"] or "HTML" in reasons["700-31_A"]
    assert "404" in reasons["700-48_A"]
    assert sorted(path.stem for path in root.path.glob("failures/slide_images/*")) == sorted(bad)

    atlas.images = dict(atlas.good)
    atlas.requests.clear()
    second = platform.retry_from_failure(first)
    assert counts(platform.finished(second)) == {"slide_images": (3, 3, 0)}
    assert {seen.path for seen in atlas.requests} == {f"/images/700/{number}_A.jpg" for number in BAD}
    assert not list(root.path.glob("failures/slide_images/*"))


def test_an_image_put_into_the_inbox_is_materialized_by_the_sensor(running):
    """Nothing is requested: the daemon ticks the sensor, launches what it requests, and the slide is there."""
    root, platform, instance = running
    root.inbox.mkdir()
    image = root.inbox / "mine.jpg"
    image.write_bytes(toy_slide(7, size_px=160).jpeg())
    # The sensor leaves alone what may still be being copied.
    long_ago = time.time() - 60
    os.utime(image, (long_ago, long_ago))
    platform.turn_on("image_folder")
    key = dg.AssetKey("slide_images")
    platform.wait_for(lambda: "mine" in instance.get_materialized_partitions(key), "the slide of the inbox", 240)
    record = read_record(root.record("slide_images", "mine"))
    assert record is not None
    assert record.values["location"] == "inbox/mine.jpg"
    assert (root.folder("slide_images", "mine") / "image.jpg").read_bytes() == image.read_bytes()


def failure_reasons(platform):
    """What the UI's run page shows of the failed step, from the metadata of its failure event."""
    found = platform.query(
        """{ runsOrError(filter: {statuses: [FAILURE]}) { ... on Runs { results { eventConnection {
            events { ... on ExecutionStepFailureEvent { failureMetadata { metadataEntries {
            label ... on JsonMetadataEntry { jsonString } } } } } } } } } }"""
    )
    reasons = {}
    for run in found["runsOrError"]["results"]:
        for event in run["eventConnection"]["events"]:
            for entry in (event.get("failureMetadata") or {}).get("metadataEntries", []):
                if entry["label"] == "failed":
                    reasons |= json.loads(entry["jsonString"])
    return reasons
