"""Nuclei through Dagster: slides of the inbox become maps, scores and rows."""

from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import numpy as np
import pytest

from dermatome.geometry import Size
from dermatome.pipeline.stage_files import load_slide
from dermatome.storage.files import write_atomic
from dermatome.storage.record import read_record
from dermatome.synthetic.nuclei import toy_nuclei
from orchestration.definitions import build_defs
from pipelines_tests.toy_dicom import write_dicom_slide

pytestmark = pytest.mark.slow


def test_a_folder_of_dicom_files_becomes_one_slide_with_maps(root, instance):
    pixels = toy_nuclei(3, Size(192, 192)).slide.whole()
    write_atomic(root.settings, b'nuclei_weights = "toy"\n[compute]\ndevice = "cpu"\nbackend = "torch"\n')
    with TemporaryDirectory() as folder:
        write_dicom_slide(Path(folder), pixels, mpp=0.25)
        for file in Path(folder).iterdir():
            write_atomic(root.nuclei_inbox / "s1" / file.name, file.read_bytes())
    job = build_defs(root.path).resolve_implicit_global_asset_job_def()
    instance.add_dynamic_partitions("nuclei_slides", ["s1"])
    for asset in ("nuclei_slides", "nucleus_maps"):
        assert job.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey(asset)], partition_key="s1"
        ).success
    kept = root.folder("nuclei_slides", "s1")
    assert {path.name for path in kept.glob("*.dcm")} == {"image.dcm", "image-2.dcm"}, "the label is left out"
    record = read_record(root.record("nuclei_slides", "s1"))
    assert (record.values["mpp"], record.values["mpp_source"]) == (0.25, "file")
    slide = load_slide(root, "s1", "nuclei_slides")
    np.testing.assert_array_equal(slide.pixels[:, :], pixels)
    assert read_record(root.record("nucleus_maps", "s1")).values["nuclei"] > 0
