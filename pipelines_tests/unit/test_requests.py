"""Which of the missing slides the nightly job requests."""

from datetime import UTC, datetime, timedelta

import pytest

from dermatome.storage.layout import DataRoot
from dermatome.storage.record import clear_failure, read_failures, write_failure
from orchestration import requests
from orchestration.requests import due_slides, fill_gaps


def fail(root: DataRoot, stage: str, slide: str, kind: str = "BadImage") -> None:
    write_failure(root.failure(stage, slide), asset=stage, partition=slide, error="No.", kind=kind, run_id="r")


def test_slides_that_keep_failing_are_tried_ever_more_seldom(tmp_path) -> None:
    root = DataRoot(tmp_path)
    fail(root, "slide_images", "once")
    for _ in range(3):
        fail(root, "slide_images", "thrice")
    for _ in range(20):
        fail(root, "epidermis_masks", "mask")
    missing = {stage: ["once", "thrice", "mask", "new"] for stage in ("slide_images", "epidermis_masks", "cell_masks")}

    def due(days: float) -> dict[str, str]:
        now = datetime.now(UTC) + timedelta(days=days)
        return {stage: " ".join(slides) for stage, slides in due_slides(root, missing, now).items()}

    later = {"epidermis_masks": "new", "cell_masks": "new"}
    assert due(0.1) == {"slide_images": "mask new", **later}
    night = {"epidermis_masks": "once new", "cell_masks": "once new"}
    assert due(1) == {"slide_images": "once mask new", **night}
    assert due(2)["slide_images"] == "once mask new"
    assert due(4)["slide_images"] == "once thrice mask new"
    assert due(62)["cell_masks"] == "once thrice new"
    assert due(64)["cell_masks"] == "once thrice mask new"
    clear_failure(root.failure("slide_images", "thrice"))
    fail(root, "slide_images", "thrice")
    assert read_failures(root, "slide_images")["thrice"].tries == 1
    root.failure("slide_images", "thrice").write_bytes(b"damaged")
    assert "thrice" in due(0)["slide_images"], "nobody knows when it failed"


def test_nights_without_a_network_make_nobody_wait_for_weeks(tmp_path) -> None:
    root = DataRoot(tmp_path)
    for kind in ("FetchFailed", "StorageFailed", "FetchFailed", "BadImage", "FetchFailed"):
        fail(root, "slide_images", "s1", kind)
    assert read_failures(root, "slide_images")["s1"].tries == 2


@pytest.mark.parametrize(
    ("wanted", "lacking", "asked"),
    [
        ("", "", ""),
        ("c", "c", "c"),
        ("ac", "ac", "abc"),
        ("ad", "ad", "abcd"),
        ("ae", "ae", "ae"),
        ("ad", "acd", "ad"),
        ("bdh", "bdh", "bcdh"),
        ("abcdefgh", "abcdefgh", "abcdefgh"),
    ],
)
def test_short_gaps_between_missing_slides_are_filled_with_made_ones(wanted, lacking, asked, monkeypatch) -> None:
    monkeypatch.setattr(requests, "_GAP", 2)
    assert "".join(fill_gaps(wanted, set(lacking), "abcdefgh")) == asked


def test_three_hundred_scattered_slides_of_a_study_are_few_stretches() -> None:
    registered = [f"s{number:05d}" for number in range(6000)]
    wanted = registered[7::20]
    asked = fill_gaps(wanted, set(wanted), registered)
    assert asked == registered[7 : 7 + 299 * 20 + 1]
