"""The interface people see: asset keys, partitions, checks, jobs. A change here is a change to users' bookmarks."""

import subprocess
import sys
from collections import defaultdict

import dagster as dg
import pytest

from assets.sources import EXTERNAL
from dermatome.warehouse.tables import TABLES, UNREADABLE, VIEWS
from orchestration.definitions import build_defs
from orchestration.requests import NUCLEI, SKIN


@pytest.fixture(scope="module")
def defs(tmp_path_factory):
    return build_defs(tmp_path_factory.mktemp("root"))


def test_assets_and_their_partitions(defs):
    graph = defs.resolve_asset_graph()
    found = defaultdict(set)
    for key in graph.get_all_asset_keys():
        partitions = graph.get(key).partitions_def
        found[partitions.name if partitions else None].add(key.to_user_string())
    assert found == {
        "genes": {"hpa_images", "gene_profiles"},
        "slides": {"slide_images", "epidermis_masks", "cell_masks", "epidermis_layers"},
        "annotated_slides": {"training_tiles"},
        "training_versions": {"tissue_weights", "tissue_hold_out_scores"},
        "studies": {"tissue_search"},
        "cell_versions": {"cell_weights", "cell_hold_out_scores"},
        "nuclei_slides": {"nuclei_slides", "nucleus_maps", "til_scores"},
        "nuclei_cases": {"nuclei_patches"},
        "nuclei_versions": {"nuclei_weights", "nuclei_hold_out_scores"},
        None: {
            "tissue_hold_out", "tissue_champion", "cell_hold_out", "cell_champion", "nuclei_hold_out",
            "nuclei_champion", "training_comparison", "skin_metrics", "skin_atlas", "hpa_agreement",
            "nuclei_runs_report", "annotation_queue",
            *EXTERNAL, *(f"metrics/{name}" for name in (*TABLES, UNREADABLE, *VIEWS)),
        },
    }  # fmt: skip


def test_checks(defs):
    found = defaultdict(set)
    for key in defs.resolve_asset_graph().asset_check_keys:
        found[key.asset_key.to_user_string()].add(key.name)
    for asset in (*SKIN.stages, *NUCLEI.stages, "gene_profiles"):
        assert "up_to_date" in found[asset]
    assert {asset: checks - {"up_to_date"} for asset, checks in found.items() if checks != {"up_to_date"}} == {
        "slide_images": {"image_not_blank"},
        "tissue_weights": {"no_leakage", "trained_enough"},
        "tissue_hold_out_scores": {"no_class_drops"},
        "cell_weights": {"no_leakage", "trained_enough"},
        "cell_hold_out_scores": {"no_precision_drops"},
        "epidermis_masks": {"tissue_fraction", "epidermis_plausible", "looks_like_skin"},
        "cell_masks": {"cell_density", "seam_density", "mask_made_with_champion"},
        "epidermis_layers": {"background_found", "light_not_clipped", "stains_present", "stain_vectors_found"},
        "skin_atlas": {"markers_as_expected"},
        "skin_metrics": {"masks_made_with_champion", "all_files_readable"},
        "nuclei_slides": {"image_not_blank"},
        "nuclei_weights": {"no_leakage", "trained_enough"},
        "nuclei_hold_out_scores": {"no_score_drops"},
        "nucleus_maps": {"nucleus_density", "stain_fit"},
        **{f"metrics/{name}": {"columns_declared"} for name in TABLES},
    }


def test_jobs_sensors_and_schedules(defs):
    repository = defs.get_repository_def()
    assert {job.name for job in repository.get_all_jobs()} >= {
        "fetch_hpa_pages", "cut_training_tiles", "train", "train_cells", "train_nuclei", "infer", "infer_nuclei",
        "refresh_metrics", "register_genes", "search",
    }  # fmt: skip
    assert {sensor.name for sensor in repository.sensor_defs} == {
        "new_hpa_images", "image_folder", "annotation_folder", "fresh_metrics", "nuclei_case_folder",
        "nuclei_slide_folder", "default_automation_condition_sensor",
    }  # fmt: skip
    schedules = {schedule.name for schedule in repository.schedule_defs}
    assert schedules == {"refresh_hpa", "backfill_new_slides", "backfill_new_nuclei"}


def test_groups_name_the_pipeline_and_each_asset_names_its_source(defs):
    graph = defs.resolve_asset_graph()
    nodes = [graph.get(key) for key in graph.get_all_asset_keys()]
    skin, nuclei = (
        {f"{name}_{part}" for part in ("images", "training", "inference", "metrics")} for name in ("skin", "nuclei")
    )
    assert {node.group_name for node in nodes} == skin | nuclei
    for node in (node for node in nodes if node.is_materializable):
        (source, *_) = node.metadata["dagster/code_references"].code_references
        assert "/assets/" in source.file_path


def test_per_slide_assets_never_share_a_run(defs):
    graph = defs.resolve_asset_graph()
    sizes = [
        graph.get(dg.AssetKey(name)).backfill_policy.max_partitions_per_run
        for name in ("slide_images", "epidermis_masks", "cell_masks", "epidermis_layers")
    ]
    assert len(set(sizes)) == len(sizes)
    nuclei = ("nuclei_slides", "nucleus_maps", "til_scores")
    assert len({graph.get(dg.AssetKey(name)).backfill_policy.max_partitions_per_run for name in nuclei}) == 3


def test_loading_the_code_location_imports_nothing_heavy():
    heavy = ("torch", "cellpose", "matplotlib", "skimage", "segmentation_models_pytorch")
    code = f"import sys, orchestration.definitions; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
