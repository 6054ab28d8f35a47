"""Nuclei in Dagster: files put into folders become partitions, slides and patches; a bad one stops itself alone."""

import dagster as dg
import pytest
from PIL import Image

from dermatome.data_root import DataRoot
from dermatome.geometry import Size
from dermatome.nuclei.patch_files import load_patches
from dermatome.slide_source import open_slide
from dermatome.stage_record import made_by
from dermatome.toy_case import save_toy_case
from dermatome.toy_nuclei import toy_nuclei
from orchestration import sensors_nuclei
from orchestration.definitions import build_defs
from resources import PathsResource


@pytest.fixture
def root(tmp_path):
    return DataRoot(tmp_path)


@pytest.fixture
def instance():
    with dg.instance_for_test() as found:
        yield found


def tick(sensor, root, instance, cursor=None):
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        sensor_name=sensor.name,
        repository_def=build_defs(root.path).get_repository_def(),
        resources={"paths": PathsResource(root=str(root.path))},
    )
    found = sensor.evaluate_tick(context)
    for request in found.dynamic_partitions_requests:
        instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
    return found


def asked_for(found):
    key = dg.AssetKey("nuclei_slides")
    return [
        sorted(request.asset_graph_subset.partitions_subsets_by_asset_key[key].get_partition_keys())
        for request in found.run_requests
    ]


def run(root, instance, asset, *keys):
    job = build_defs(root.path).resolve_implicit_global_asset_job_def()
    ends = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
    return job.execute_in_process(
        instance=instance, asset_selection=[dg.AssetKey(asset)], tags=ends, raise_on_error=False
    )


def test_cases_of_a_folder_become_patches(root, instance):
    toy = toy_nuclei(1, Size(96, 96), name="TCGA-AA-0001-01Z-00-DX1_1")
    save_toy_case(root.nuclei_annotations / "case-1", [toy])
    (root.nuclei_annotations / "case-2").mkdir()
    (request,) = tick(sensors_nuclei.nuclei_case_folder, root, instance).dynamic_partitions_requests
    assert list(request.partition_keys) == ["case-1", "case-2"]
    assert tick(sensors_nuclei.nuclei_case_folder, root, instance).skip_message

    assert not run(root, instance, "nuclei_patches", "case-1", "case-2").success
    assert (root.made("nuclei_patches"), root.failed("nuclei_patches")) == (["case-1"], {"case-2"})
    values = made_by(root, "nuclei_patches", "case-1").values
    assert (values["patches"], values["patients"]) == (1, "TCGA-AA-0001")
    with root.local("nuclei_patches", "case-1") as folder:
        (patch,) = load_patches(folder)
        assert patch.row.nuclei == toy.maps.instances.max()


def test_slides_of_the_inbox_are_checked_and_kept(root, instance, monkeypatch):
    toy = toy_nuclei(2, Size(80, 90)).slide
    root.nuclei_inbox.mkdir()
    for name in ("a.png", "b.tif"):
        Image.fromarray(toy.whole()).save(root.nuclei_inbox / name, dpi=(101_600, 101_600))
    (root.nuclei_inbox / "c.svs").write_bytes(b"no slide")
    (root.nuclei_inbox / "notes.txt").touch()
    monkeypatch.setattr(sensors_nuclei, "_SETTLED_S", 3600)
    assert tick(sensors_nuclei.nuclei_slide_folder, root, instance).skip_message  # they may still be being copied
    monkeypatch.setattr(sensors_nuclei, "_SETTLED_S", -60)
    first = tick(sensors_nuclei.nuclei_slide_folder, root, instance)
    assert asked_for(first) == [["a", "b", "c"]]
    assert tick(sensors_nuclei.nuclei_slide_folder, root, instance, first.cursor).skip_message

    assert not run(root, instance, "nuclei_slides", "a", "c").success
    assert (root.made("nuclei_slides"), root.failed("nuclei_slides")) == (["a", "b"], {"c"})
    scales = {}
    for key in ("a", "b"):
        record = made_by(root, "nuclei_slides", key)
        scales[key] = (record.values["mpp"], record.values["mpp_source"])
        with root.local("nuclei_slides", key) as folder:
            slide = open_slide(folder, key, record.values)
            assert (slide.mpp, slide.mpp_source) == scales[key]
            assert (slide.whole() == toy.whole()).all()
    assert scales == {"a": (0.25, "declared"), "b": (pytest.approx(0.25), "file")}

    (root.nuclei_inbox / "b.tif").touch()  # replaced
    assert asked_for(tick(sensors_nuclei.nuclei_slide_folder, root, instance, first.cursor)) == [["b"]]
