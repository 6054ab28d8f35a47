"""Cell networks in Dagster: trained, scored on the hold-out set, promoted, and cell masks that name their network."""

import dagster as dg
import duckdb
import pytest

from assets.partitions import CELL_VERSIONS
from dermatome.skin.cells.networks import find_cell_weights
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import read_record
from dermatome.warehouse.store import build_store
from pipelines_tests.annotated_cells import write_set
from pipelines_tests.asset_runs import run

TINY = {
    "nbase": [2, 4, 4, 4, 8], "diameter_px": 16.0, "crop_px": 64, "batch": 2, "epochs": 1, "epoch_steps": 1,
    "validation_share": 0.3,
}  # fmt: skip


@pytest.fixture
def root(tmp_path):
    root = DataRoot(tmp_path)
    root.settings.write_text('cell_weights = "toy"\n[compute]\ndevice = "cpu"\nthreads = 1\n')
    return root


def test_a_version_is_trained_scored_and_promoted(root):
    write_set(root.cell_annotations / "study", range(3))
    write_set(root.cell_annotations / "kept", range(10, 11))
    before = find_cell_weights(root, "toy")
    assert (before.name, before.data_version) == ("toy", "NULL")
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions(CELL_VERSIONS.name, ["v001"])
        assert run(root, instance, "cell_hold_out", config={"cell_hold_out": {"sets": ["kept"]}}).success
        done = run(
            root, instance, "cell_weights", "cell_hold_out_scores", "cell_champion", key="v001",
            config={"cell_weights": TINY},
        )  # fmt: skip
        assert done.success
        verdicts = {check.check_name: check.passed for check in done.get_asset_check_evaluations()}
    assert verdicts == {"no_leakage": True, "no_precision_drops": True, "trained_enough": True}
    record = read_record(root.record("cell_weights", "v001"))
    assert (record.values["images_train"], record.values["images_validation"]) == (2, 1)
    assert set(record.inputs) == {"study"}  # the hold-out set's images are kept apart
    made = {path.name for path in root.folder("cell_weights", "v001").iterdir()}
    assert made >= {"weights.safetensors", "weights.tiles.parquet", "curves.png", "precision.png", "samples.png"}
    assert not (root.checkpoints("cell_weights", "v001") / "checkpoint.pt").exists()
    chosen = find_cell_weights(root, "toy")
    assert (chosen.name, chosen.sha256) == ("v001", record.values["weights_sha256"])
    assert chosen.data_version == read_record(root.record("cell_champion", CHAMPION)).data_version
    with duckdb.connect(str(build_store(root).path), read_only=True) as store:
        assert store.execute("select version, images_train from cell_training").fetchall() == [("v001", 2)]
        assert store.execute("select slide, cells from cell_training_images").fetchall()[0][1] == 16
        assert store.execute("select count(*) from cell_training_epochs").fetchall() == [(1,)]
        assert store.execute("select version from cell_champion").fetchall() == [("v001",)]
