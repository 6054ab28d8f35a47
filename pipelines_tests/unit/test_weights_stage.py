"""A training's files and record, and the choice of the champion, without the training itself."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from dermatome.classes import TISSUE_LABELS
from dermatome.errors import BadSetting, BadWeights, MissingInput, StorageFailed
from dermatome.inference.compute import Compute
from dermatome.registry import version as registry_version
from dermatome.registry.champion import choose_champion
from dermatome.registry.leakage import check_leakage, find_leaks
from dermatome.registry.lineage import ancestors_of, parent_name
from dermatome.registry.manifest import ManifestRow, Side, known_sides, manifest_path, write_manifest
from dermatome.registry.model_kinds import TISSUE
from dermatome.registry.version import Version, lineage_of_version, train_version
from dermatome.skin.tissue.evaluate import Calibration, Evaluation
from dermatome.skin.tissue.network import TissueCard
from dermatome.skin.tissue.task import TissueTask, TissueTraining
from dermatome.storage.files import sha256_bytes, write_atomic
from dermatome.storage.layout import WEIGHTS_FILE, DataRoot
from dermatome.storage.record import StageResult
from dermatome.training.data import Split
from dermatome.training.trainer import CHECKPOINT_FILE, Trained
from dermatome.training.unet import build_network
from dermatome.training.weights import card_path, save_weights
from pipelines_tests.records import put_record

CPU = Compute(device="cpu", precision="fp32", threads=1, device_name="cpu")
CONFUSION = np.array([[9, 1, 0, 0], [0, 8, 2, 0], [0, 0, 5, 5], [0, 0, 0, 0]])


def tile(name: str, side: Side, slide: str, patient: str = "", seed: int = 0) -> ManifestRow:
    """A row of a manifest whose picture follows from the seed."""
    picture = np.random.default_rng(seed).integers(0, 255, (32, 32)).astype(np.uint8)
    sha256 = sha256_bytes(picture.tobytes())
    return ManifestRow(
        name, side, patient or slide, slide, patient, "", sha256, sha256, "", 64, 64, [1, 1, 1, 1], picture.tobytes()
    )


ROWS = [tile("t1", "train", "s1", seed=1), tile("t2", "train", "s2", seed=2), tile("t3", "validation", "s3", seed=3)]


def trainer(weights: bytes, confusion: np.ndarray = CONFUSION, rows: list[ManifestRow] = ROWS) -> Any:
    """A stand-in for `train_file` that writes these bytes."""

    def train_file(task: TissueTask, out: Path, compute: Compute, **options: Any) -> Version:
        if options.get("checkpoint_dir"):
            write_atomic(options["checkpoint_dir"] / CHECKPOINT_FILE, b"state")
        write_atomic(out, weights)
        write_atomic(card_path(out), b"{}")
        write_manifest(manifest_path(out), rows)
        card = TissueCard("resnet18", (8, 8), 0.5, (0.5, 2.0), 2.0, 0.5, steps=task.settings.epoch_steps)
        row = {"epoch": 1, "step": 4, "seconds": 1.0, "learning_rate": 0.1, "train_loss": 0.5, "mean_iou": 0.6}
        history = pd.DataFrame([row | {f"iou_{label}": 0.5 for label in TISSUE_LABELS}])
        bins = Calibration(np.full(15, 10), np.linspace(0, 9, 15), np.arange(15) % 10)
        found = Evaluation(confusion, bins, (0.5, 0.4, None, 0.9))
        return Version(Trained({}, card, history, found, None, False), sha256_bytes(weights), rows)

    return train_file


def trained(root: DataRoot, version: str, result: StageResult) -> None:
    put_record(root, "tissue_weights", version, **vars(result))


@pytest.fixture
def make(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StageResult]:
    def make(version: str, weights: bytes, *, report: bool = False, **stub: Any) -> StageResult:
        monkeypatch.setattr(registry_version, "train_file", trainer(weights, **stub))
        if not report:
            monkeypatch.setattr(TissueTask, "write_report", lambda *_: None)
        task = TissueTask(TissueTraining(mpp=0.5), Split(()))
        return train_version(task, root.folder("tissue_weights", version), version, CPU)

    return make


def test_a_planted_leak_trips_the_check() -> None:
    clean = check_leakage(ROWS)
    assert (clean.name, clean.passed, clean.values["tested"]) == ("no_leakage", True, 1)
    planted = {
        "the slide s1": tile("t4", "validation", "s1", seed=4),
        "the patient p": tile("t4", "validation", "s4", "p", seed=4),
        "the same file": tile("t4", "validation", "s4", seed=1),
    }
    for why, row in planted.items():
        of_patient = tile("t5", "train", "s5", "p", seed=5)
        check = check_leakage([*ROWS, of_patient, row])
        assert not check.passed
        assert why in check.description
        assert check.values == {"leaks": 1, "tested": 2, "leaking": 1}
    nothing = check_leakage(ROWS[:2])
    assert nothing.passed
    assert "Nothing is held out" in nothing.description


def test_copies_are_found_by_their_picture_whatever_was_done_to_them() -> None:
    learnt = [replace(tile(f"t{n}", "train", f"s{n}"), thumbnail=picture(n)) for n in range(8)]
    other = replace(tile("v", "validation", "sv", seed=99), thumbnail=picture(99))
    assert find_leaks([*learnt, other]) == []
    for change in (lambda p: np.rot90(p[:, ::-1]), lambda p: p * 0.6 + 30, lambda p: cv2.GaussianBlur(p, (0, 0), 0.5)):
        shown = np.frombuffer(picture(5), np.uint8).reshape(32, 32).astype(np.float32)
        copy = replace(other, thumbnail=np.rint(change(shown)).astype(np.uint8).tobytes())
        (leak,) = find_leaks([*learnt, copy])
        assert (leak.learnt, leak.tested) == ("t5", "v")
        assert "picture" in leak.why
    empty = bytes([240]) * 1024
    assert find_leaks([replace(learnt[0], thumbnail=empty), replace(other, thumbnail=empty)]) == []


def picture(seed: int) -> bytes:
    """A thumbnail with detail of several pixels' size, as tissue has."""
    noise = np.random.default_rng(seed).normal(0, 1, (32, 32)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.0)
    return np.clip(120 + 100 * smooth / np.abs(smooth).max(), 0, 255).astype(np.uint8).tobytes()


def test_a_descendant_is_not_tested_on_what_an_ancestor_learnt(
    root: DataRoot, make: Callable[..., StageResult]
) -> None:
    trained(root, "v001", make("v001", b"first"))
    ancestors, all_known = ancestors_of(root, TISSUE, "v001")
    assert all_known
    assert sorted(row.name for row in ancestors["v001"]) == ["t1", "t2", "t3"]
    rows = [tile("n1", "train", "s9", seed=9), tile("t1", "validation", "s1", seed=1)]
    leaks = find_leaks(rows, ancestors)
    assert {(leak.learnt, leak.tested) for leak in leaks} == {("v001: t1", "t1")}
    assert known_sides(ancestors["v001"]) | {"s1": "train", "s2": "train", "s3": "validation"} == known_sides(
        ancestors["v001"]
    )


def test_what_a_version_goes_on_from(root: DataRoot) -> None:
    assert parent_name("v001", None) is None
    assert parent_name("v001_cont2", None) == "v001"
    assert parent_name("v001_cont2", "v001_cont1") == "v001_cont1"
    with pytest.raises(BadSetting, match="v001_cont1"):
        parent_name("v001", "v001")
    with pytest.raises(MissingInput, match="'v009', which is neither a trained version"):
        lineage_of_version(TissueTask, root, "v009_cont1", None)
    assert lineage_of_version(TissueTask, root, "v001", None) is None


def test_a_file_and_a_version_to_go_on_from(root: DataRoot) -> None:
    card = TissueCard("resnet18", (8, 8, 8, 8, 8), 1.5, (1.0, 4.0), 3.0, 0.5)
    state = build_network("resnet18", 4, card.decoder_channels).state_dict()
    folder = root.folder("tissue_weights", "v001")
    sha256 = save_weights(folder / WEIGHTS_FILE, state, card)
    write_manifest(manifest_path(folder / WEIGHTS_FILE), ROWS)
    trained(
        root, "v001", StageResult("trained", sha256[:32], {"weights_sha256": sha256, "parent": "other.safetensors"})
    )
    by_name = lineage_of_version(TissueTask, root, "v001_cont1", None)
    assert (by_name.name, by_name.weights.sha256, by_name.all_known) == ("v001", sha256, False)
    filled = by_name.fill_in({"seed": 3, "train_mpp": 2.0})
    assert filled == {
        "encoder": "resnet18", "decoder_channels": (8, 8, 8, 8, 8), "mean": card.mean, "std": card.std,
        "encoder_weights": None, "train_mpp": 2.0, "seed": 3,
    }  # fmt: skip
    file = lineage_of_version(TissueTask, root, "v002", str(folder / WEIGHTS_FILE))
    assert file.all_known
    assert file.sides()["s1"] == "train"
    trained(root, "v001", StageResult("trained", "x", {"weights_sha256": "another"}))
    with pytest.raises(BadWeights, match="have changed since they were trained"):
        lineage_of_version(TissueTask, root, "v001_cont1", None)


def test_scores_that_say_nothing_of_which_is_better_choose_no_champion(
    root: DataRoot, make: Callable[..., StageResult]
) -> None:
    trained(root, "v001", make("v001", b"first"))
    leaking = make("v002", b"2", rows=[*ROWS, tile("t4", "validation", "s1", seed=4)], confusion=np.diag([9] * 4))
    trained(root, "v002", leaking)
    assert choose_champion(root, TISSUE).version == "v001", "the better score is one of what it had seen"
    by_hand = choose_champion(root, TISSUE, version="v002")
    assert "not hidden from training" in str(by_hand.warning)
    trained(root, "v003", make("v003", b"3", rows=[*ROWS, tile("t9", "validation", "s9", seed=9)]))
    with pytest.raises(BadSetting, match="v001, v003 were validated on different data"):
        choose_champion(root, TISSUE)
    for version in ("v001", "v003"):
        shutil.rmtree(root.folder("tissue_weights", version))
    with pytest.raises(BadSetting, match="its own training data"):
        choose_champion(root, TISSUE)


def test_a_champion_is_chosen_by_score_or_hand_and_must_be_the_file_that_was_trained(
    root: DataRoot, make: Callable[..., StageResult]
) -> None:
    trained(root, "v001", make("v001", b"first"))
    trained(root, "v002", make("v002", b"second", confusion=np.diag([9, 9, 9, 9])))
    (root.folder("tissue_weights") / ".v003.part").mkdir()
    write_atomic(root.record("tissue_weights", "v004"), b"{rubbish")
    assert "v004 was left out: The record " in str(choose_champion(root, TISSUE).warning)
    with pytest.raises(StorageFailed, match="v004"):
        choose_champion(root, TISSUE, version="v004")
    assert choose_champion(root, TISSUE).version == "v002"
    by_hand = choose_champion(root, TISSUE, version="v001")
    assert (by_hand.weights_sha256, by_hand.chosen_by) == (sha256_bytes(b"first"), "hand")
    (root.folder("tissue_weights", "v002") / WEIGHTS_FILE).write_bytes(b"other")
    with pytest.raises(BadWeights, match="weights file of v002"):
        choose_champion(root, TISSUE)
    assert choose_champion(root, TISSUE, version="v001").version == "v001"
