"""Nuclei through Dagster: a slide of the inbox becomes maps, scores and rows."""

import dagster as dg
import duckdb
import pytest
from PIL import Image

from dermatome.data_root import DataRoot
from dermatome.geometry import Size
from dermatome.stage_record import read_record
from dermatome.toy_nuclei import toy_nuclei
from orchestration.definitions import build_defs

pytestmark = pytest.mark.slow


def test_a_slide_becomes_maps_scores_and_rows(tmp_path):
    root = DataRoot(tmp_path)
    root.settings.write_text('nuclei_weights = "toy"\n[compute]\ndevice = "cpu"\nbackend = "torch"\n')
    (tmp_path / "nuclei_inbox").mkdir()
    Image.fromarray(toy_nuclei(3, Size(192, 192)).slide.whole()).save(tmp_path / "nuclei_inbox" / "s1.png")
    job = build_defs(tmp_path).resolve_implicit_global_asset_job_def()
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("nuclei_slides", ["s1"])
        for asset in ("nuclei_slides", "nucleus_maps", "til_scores", "skin_metrics"):
            key = None if asset == "skin_metrics" else "s1"
            assert job.execute_in_process(
                instance=instance, asset_selection=[dg.AssetKey(asset)], partition_key=key
            ).success
    record = read_record(root.record("nucleus_maps", "s1"))
    assert record.inputs.keys() == {"nuclei_slides", "nuclei_weights"}
    assert record.values["nuclei"] > 0
    with duckdb.connect(str(root.store), read_only=True) as store:
        assert store.execute("select slide, nuclei from nucleus_maps").fetchall() == [("s1", record.values["nuclei"])]
        assert store.execute("select slide from til_scores").fetchall() == [("s1",)]
