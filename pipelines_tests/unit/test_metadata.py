"""What the UI of Dagster shows: text of files and records is never Markdown, which may hold links and pictures."""

import json

import dagster as dg

from assets.materialize import check_fields, record_metadata
from dermatome.storage.layout import PREVIEW_FILE
from dermatome.storage.record import Check, StageRecord

MARKUP = "```\n```\n<img src=x onerror=alert(1)> [a](javascript:alert(1)) ![b](http://evil.example/b.png)"


def test_markup_in_a_record_stays_text(tmp_path):
    folder = tmp_path / "cell_masks" / "s1"
    folder.mkdir(parents=True)
    (folder / PREVIEW_FILE).write_bytes(MARKUP.encode())
    record = StageRecord(
        asset="cell_masks", partition="s1", outcome=MARKUP, message=MARKUP, data_version="v", fingerprint="f",
        code_version="1", inputs={"slide_images": MARKUP}, settings={"name": MARKUP}, values={"class": MARKUP},
    )  # fmt: skip
    shown = record_metadata(record, folder, reused=False)
    markdown = {name: value for name, value in shown.items() if isinstance(value, dg.MarkdownMetadataValue)}
    assert set(markdown) == {"preview", "details"}
    assert len(markdown["details"].value) >= 1000, "else the UI would show it at once"
    first, *lines, last = markdown["details"].value.strip().splitlines()
    assert (first, last) == ("```json", "```")
    assert not any(line.lstrip().startswith("```") for line in lines), "nothing in the block ends it"
    assert markdown["preview"].value == "![preview](/results/cell_masks/s1/preview.webp)"
    check = check_fields(Check("c", True, "fine", {"class": MARKUP}), dg.AssetCheckSeverity.WARN)
    assert check["metadata"] == {"class": MARKUP}, "Dagster shows a str as text"


def test_results_come_first_and_technical_values_are_in_the_details(tmp_path):
    values = {
        "weights_sha256": "ab", "mpp": 0.5, "device": "cpu", "parent": None, "mean_iou": 0.9, "tiles": 4,
        "weights": "v1", "epidermis_um2": 12.0, "i0_red": 240.0,
    }  # fmt: skip
    record = StageRecord(
        asset="epidermis_masks", partition="s1", outcome="tissue", data_version="v", fingerprint="f", code_version="1",
        inputs={}, settings={}, values=values,
    )  # fmt: skip
    shown = record_metadata(record, tmp_path, reused=False, more={"gene": dg.MetadataValue.text("KRT5")})
    assert list(shown) == [
        "outcome", "gene", "atlas", "mean_iou", "tiles", "epidermis_um2", "mpp", "weights", "details", "folder",
        "reused",
    ]  # fmt: skip
    assert shown["atlas"].value == "http://127.0.0.1:7860/atlas/slide/s1"
    details = json.loads(shown["details"].value.removeprefix("```json").strip().removesuffix("```"))
    assert details["technical"] == {"weights_sha256": "ab", "device": "cpu", "i0_red": 240.0}
