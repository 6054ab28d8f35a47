"""Nuclei through Dagster: slides of the inbox become maps, scores and rows."""

import numpy as np
import pytest
from PIL import Image

from dermatome.geometry import Size
from dermatome.pipeline.stage_files import load_slide
from dermatome.slides import source
from dermatome.slides.source import inbox_sources
from dermatome.storage.files import write_atomic
from dermatome.storage.record import read_record
from dermatome.synthetic.nuclei import toy_nuclei
from pipelines_tests.asset_runs import run
from pipelines_tests.bad_images import saved
from pipelines_tests.toy_dicom import write_dicom_slide

pytestmark = pytest.mark.slow


def test_a_slide_that_comes_after_its_run_began_is_read(root, instance, monkeypatch):
    pixels = Image.fromarray(toy_nuclei(3, Size(64, 64)).slide.whole())
    write_atomic(root.nuclei_inbox / "s1.png", saved(pixels, "PNG"))
    instance.add_dynamic_partitions("nuclei_slides", ["s1"])
    seen = [{}]
    monkeypatch.setattr(source, "inbox_sources", lambda folder: seen.pop() if seen else inbox_sources(folder))
    assert run(root, instance, "nuclei_slides", key="s1").success
    assert not seen


def test_a_folder_of_dicom_files_becomes_one_slide_with_maps(root, instance):
    pixels = toy_nuclei(3, Size(192, 192)).slide.whole()
    write_atomic(root.settings, b'nuclei_weights = "toy"\n[compute]\ndevice = "cpu"\nbackend = "torch"\n')
    write_dicom_slide(root.nuclei_inbox / "s1", pixels, mpp=0.25)
    instance.add_dynamic_partitions("nuclei_slides", ["s1"])
    for asset in ("nuclei_slides", "nucleus_maps"):
        assert run(root, instance, asset, key="s1").success
    kept = root.folder("nuclei_slides", "s1")
    assert {path.name for path in kept.glob("*.dcm")} == {"image.dcm", "image-2.dcm"}, "the label is left out"
    record = read_record(root.record("nuclei_slides", "s1"))
    assert (record.values["mpp"], record.values["mpp_source"]) == (0.25, "file")
    slide = load_slide(root, "s1", "nuclei_slides")
    np.testing.assert_array_equal(slide.pixels[:, :], pixels)
    assert read_record(root.record("nucleus_maps", "s1")).values["nuclei"] > 0
