"""Previews, class shares and counts of training samples, as the UI shows them."""

import pytest
from PIL import Image

from dermatome.classes import TISSUE_LABELS
from dermatome.synthetic import cohort
from pipelines_tests.asset_runs import run

METADATA = """
{ assetNodes(assetKeys: [{path: ["training_tiles"]}]) { assetMaterializations(limit: 1) { metadataEntries {
  label ... on FloatMetadataEntry { floatValue } ... on IntMetadataEntry { intValue }
  ... on MarkdownMetadataEntry { mdStr }
} } } }
"""


def test_tiles_show_a_preview_their_number_and_the_share_of_each_class(root, instance, ask):
    cohort.write_annotations(root.annotations)
    (slide, *_) = cohort.ANNOTATED
    instance.add_dynamic_partitions("annotated_slides", [slide])
    assert run(root, instance, "training_tiles", key=slide).success
    (event,) = ask(METADATA)["assetNodes"][0]["assetMaterializations"]
    entries = {entry["label"]: entry for entry in event["metadataEntries"]}
    assert entries["tiles"]["intValue"] == len(list((root.folder("training_tiles", slide) / "images").iterdir()))
    shares = [entries[f"{label}_share"]["floatValue"] for label in TISSUE_LABELS]
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0.01
    assert entries["preview"]["mdStr"] == f"![preview](/results/training_tiles/{slide}/preview.webp)"
    assert len(entries["preview"]["mdStr"]) < 1000, "else the UI would show it on a click only"
    with Image.open(root.folder("training_tiles", slide) / "preview.webp") as preview:
        assert preview.width == 480
