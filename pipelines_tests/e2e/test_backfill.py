"""Two hundred slides through the real daemon and web server, three of them bad."""

import json

import pytest

from dermatome.classes import StainingPattern
from dermatome.data_root import DataRoot
from dermatome.demo.server import ToyAtlas
from dermatome.slide_source import SlideSource
from dermatome.toy import toy_slide
from orchestration.requests import register_slides
from pipelines_tests.e2e.platform import Platform, counts

SLIDES = 200
BAD = {17: "cut short", 101: "a web page", 188: "404"}

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture
def atlas():
    drawn = [toy_slide(seed, StainingPattern.WHOLE, size_px=160).jpeg() for seed in range(4)]
    with ToyAtlas() as server:
        server.images = {f"/images/700/{number}_A.jpg": drawn[number % 4] for number in range(SLIDES)}
        good = dict(server.images)
        server.images["/images/700/17_A.jpg"] = drawn[0][:2000]
        server.images["/images/700/101_A.jpg"] = b"<!DOCTYPE html><html>not here</html>"
        del server.images["/images/700/188_A.jpg"]
        server.good = good
        yield server


def test_three_bad_slides_of_200_fail_alone_and_are_retried_alone(tmp_path, atlas):
    root = DataRoot(tmp_path / "data")
    root.path.mkdir()
    root.settings.write_text(
        f'[hpa]\nbase_url = "{atlas.url}"\narchive_urls = []\nallowed_hosts = ["127.0.0.1"]\nretries = 1\n'
    )
    slides = [f"700-{number}_A" for number in range(SLIDES)]
    bad = [slides[number] for number in BAD]
    sources = [SlideSource(s, "hpa", f"{atlas.url}/images/700/{s.removeprefix('700-')}.jpg") for s in slides]
    with Platform(root.path) as platform, platform.instance() as instance:
        assert register_slides(instance, root, sources) == slides

        first = platform.backfill(["slide_images"], slides)
        assert counts(platform.finished(first)) == {"slide_images": (200, 197, 3)}

        reasons = failure_reasons(platform)
        assert set(reasons) == set(bad)
        assert "damaged or cut short" in reasons["700-17_A"]
        assert "web page" in reasons["700-101_A"] or "HTML" in reasons["700-101_A"]
        assert "404" in reasons["700-188_A"]
        assert sorted(path.stem for path in root.path.glob("failures/slide_images/*")) == sorted(bad)

        atlas.images = dict(atlas.good)
        atlas.requests.clear()
        second = platform.retry_from_failure(first)
        assert counts(platform.finished(second)) == {"slide_images": (3, 3, 0)}
        assert {seen.path for seen in atlas.requests} == {f"/images/700/{number}_A.jpg" for number in BAD}
        assert not list(root.path.glob("failures/slide_images/*"))


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
