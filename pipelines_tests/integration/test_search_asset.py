"""`tissue_search` in Dagster, and its best trial trained as a version."""

import json

from assets.partitions import STUDIES, TRAINING_VERSIONS
from dermatome.registry import version as registry_version
from dermatome.storage.record import read_record
from dermatome.training import search
from pipelines_tests.asset_runs import run
from pipelines_tests.integration.test_promotion import tiles
from pipelines_tests.unit.test_search import fake_train
from pipelines_tests.unit.test_weights_stage import trainer


def test_a_study_and_its_best_trial_as_a_version(root, instance, monkeypatch):
    for number in range(3):
        tiles(root, f"a{number}", number)
    monkeypatch.setattr(search, "train", fake_train)
    config = {"trials": 3, "seed": 7, "epochs": 3, "train_mpp": 1.0, "space": {"learning_rate": [0.001, 0.01]}}
    instance.add_dynamic_partitions(STUDIES.name, ["s1"])
    instance.add_dynamic_partitions(TRAINING_VERSIONS.name, ["v001"])
    done = run(root, instance, "tissue_search", key="s1", config={"tissue_search": config})
    (event,) = done.asset_materializations_for_node("tissue_search")
    assert "from_study: s1" in event.metadata["to_train_it"].md_str
    found = read_record(root.record("tissue_search", "s1"))
    best = json.loads(found.values["best_settings"])
    assert (found.values["trials"], best["seed"], best["train_mpp"]) == (3, 7, 1.0)
    assert 0.001 <= best["learning_rate"] <= 0.01
    monkeypatch.setattr(registry_version, "train_file", trainer(b"weights"))
    chosen = {"from_study": "s1", "seed": 8}
    assert run(root, instance, "tissue_weights", key="v001", config={"tissue_weights": chosen}).success
    settings = read_record(root.record("tissue_weights", "v001")).settings
    assert settings["learning_rate"] == best["learning_rate"]
    assert settings["augment"] == best["augment"]
    assert settings["seed"] == 8  # what the run config says goes before
