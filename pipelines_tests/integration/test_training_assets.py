"""`tissue_weights` in Dagster: what its event shows, and what a failure leaves."""

import json

import dagster as dg
import pytest

from assets.partitions import TRAINING_VERSIONS
from dermatome.errors import BadSetting
from dermatome.registry import version as registry_version
from dermatome.skin.tissue.task import TissueTask
from dermatome.storage.layout import RECORD_FILE, DataRoot
from dermatome.storage.record import read_record, write_record
from dermatome.training import trainer as training
from dermatome.training.data import Split
from pipelines_tests.asset_runs import run
from pipelines_tests.records import record_of
from pipelines_tests.unit.test_weights_stage import tile, trainer


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(TissueTask, "choose", lambda folders, held, settings, lineage: TissueTask(settings, Split(())))
    root = DataRoot(tmp_path)
    for slide in ("a1", ".a2.part"):
        path = root.folder("training_tiles") / slide / RECORD_FILE
        path.parent.mkdir(parents=True)
        write_record(path, record_of("training_tiles", slide, outcome="tiles"))
    return root


def train(root, instance, **config):
    instance.add_dynamic_partitions(TRAINING_VERSIONS.name, ["v001"])
    return run(root, instance, "tissue_weights", key="v001", config={"tissue_weights": config})


def test_confusion_is_shown_and_checkpoints_end_after_the_record(root, instance, monkeypatch):
    monkeypatch.setattr(registry_version, "train_file", trainer(b"weights"))
    dropped = []

    def drop(checkpoints):
        dropped.append((checkpoints, root.record("tissue_weights", "v001").is_file()))

    monkeypatch.setattr(training, "drop_checkpoints", drop)
    done = train(root, instance)
    assert done.success
    (event,) = done.asset_materializations_for_node("tissue_weights")
    assert "| dermis | 0 (0.0%) | 8 (80.0%) |" in event.metadata["confusion"].md_str
    assert dropped == [(root.path / "checkpoints" / "tissue_weights" / "v001", True)]
    assert set(read_record(root.record("tissue_weights", "v001")).inputs) == {"a1"}


def test_a_failed_training_is_among_the_failures_until_it_succeeds(root, instance, monkeypatch):
    def fail(*_, **__):
        raise BadSetting("The crop is larger than the tiles: choose a smaller one.")

    monkeypatch.setattr(registry_version, "train_file", fail)
    path = root.failure("tissue_weights", "v001")
    assert not train(root, instance).success
    row = json.loads(path.read_bytes())
    assert (row["asset"], row["partition"], row["kind"]) == ("tissue_weights", "v001", "BadSetting")
    assert row["error"] == "The crop is larger than the tiles: choose a smaller one."
    monkeypatch.setattr(registry_version, "train_file", trainer(b"weights"))
    assert train(root, instance).success
    assert not path.exists()


def test_a_leak_fails_its_check_in_dagster(root, instance, monkeypatch):
    leak = [tile("t1", "train", "s1"), tile("t2", "train", "s2", seed=2), tile("t3", "validation", "s1", seed=3)]
    monkeypatch.setattr(registry_version, "train_file", trainer(b"weights", rows=leak))
    check, _ = train(root, instance).get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.severity) == ("no_leakage", False, dg.AssetCheckSeverity.ERROR)
    monkeypatch.setattr(registry_version, "train_file", trainer(b"weights", rows=[leak[0], leak[2]]))
    check, _ = train(root, instance).get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)  # one slide: nothing else to do
    monkeypatch.setattr(registry_version, "train_file", trainer(b"weights"))
    check, _ = train(root, instance).get_asset_check_evaluations()
    assert check.passed


def test_drawn_tiles_need_no_annotated_slide(tmp_path, instance, monkeypatch):
    root, counts = DataRoot(tmp_path), []

    def train_file(task, *given, **options):
        counts.append(len(task.split.train) + len(task.split.validation))
        assert task.split.train[0].read()[0].shape == (256, 256, 3)
        return trainer(b"weights")(task, *given, **options)

    monkeypatch.setattr(registry_version, "train_file", train_file)
    assert not train(root, instance).success
    assert train(root, instance, drawn=True, max_minutes=0.5).success
    record = read_record(root.record("tissue_weights", "v001"))
    assert (counts, record.inputs) == ([16], {})
    assert [record.settings[name] for name in ("mpp", "train_mpp", "synthetic")] == [1.0, 1.0, True]
