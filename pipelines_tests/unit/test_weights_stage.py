"""A training's files and record, and the choice of the champion, without the training itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dermatome.classes import TISSUE_LABELS
from dermatome.compute import Compute
from dermatome.data_root import RECORD_FILE, WEIGHTS_FILE, DataRoot
from dermatome.errors import BadWeights, MissingInput
from dermatome.files import sha256_bytes, write_whole
from dermatome.scores import class_scores
from dermatome.skin import weights_stage
from dermatome.stage_record import StageRecord, StageResult, write_record
from dermatome.training import TrainResult, TrainSettings
from dermatome.weights import WeightsCard, card_path

CPU = Compute(device="cpu", precision="fp32", threads=1, device_name="cpu")
CONFUSION = np.array([[9, 1, 0, 0], [0, 8, 2, 0], [0, 0, 5, 5], [0, 0, 0, 0]])


def trainer(weights: bytes, confusion: np.ndarray = CONFUSION, look: Callable[[], None] = lambda: None) -> Any:
    """A stand-in for `train_file` that writes these bytes."""

    def train_file(tiles: Any, out: Path, settings: TrainSettings, compute: Compute, **options: Any) -> Any:
        write_whole(options["checkpoint_dir"] / "checkpoint.pt", b"state")
        look()
        write_whole(out, weights)
        write_whole(card_path(out), b"{}")
        card = WeightsCard("resnet18", (8, 8), 0.5, (0.5, 2.0), 2.0, 0.5)
        history = pd.DataFrame(
            {
                "epoch": [1],
                "step": [4],
                "seconds": [1.0],
                "learning_rate": [0.1],
                "train_loss": [0.5],
                "mean_iou": [0.6],
            }
            | {f"iou_{label}": [0.5] for label in TISSUE_LABELS}
        )
        scores = class_scores(confusion, TISSUE_LABELS)
        return TrainResult({}, card, history, confusion, scores, False), sha256_bytes(weights)

    return train_file


def trained(root: DataRoot, version: str, result: StageResult) -> None:
    record = StageRecord(
        asset="tissue_weights", partition=version, fingerprint="f", code_version="1", inputs={}, settings={},
        **vars(result),
    )  # fmt: skip
    write_record(root.record("tissue_weights", version), record)


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    return DataRoot(tmp_path)


@pytest.fixture
def make(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StageResult]:
    def make(version: str, weights: bytes, **stub: Any) -> StageResult:
        monkeypatch.setattr(weights_stage, "train_file", trainer(weights, **stub))
        folder = root.folder("tissue_weights", version)
        return weights_stage.make_weights([], folder, version, TrainSettings(mpp=0.5), CPU)

    return make


def test_the_record_of_other_weights_goes_before_they_do(root: DataRoot, make: Callable[..., StageResult]) -> None:
    folder = root.folder("tissue_weights", "v001")
    trained(root, "v001", make("v001", b"first"))

    def still_whole() -> None:
        assert (folder / WEIGHTS_FILE).read_bytes() == b"first"
        assert (folder / RECORD_FILE).is_file()

    make("v001", b"second", look=still_whole)
    assert (folder / WEIGHTS_FILE).read_bytes() == b"second"
    assert (folder / "weights.json").is_file()
    assert not (folder / RECORD_FILE).exists()
    with pytest.raises(MissingInput):
        weights_stage.choose_champion(root)


def test_checkpoints_stay_until_they_are_dropped(root: DataRoot, make: Callable[..., StageResult]) -> None:
    make("v001", b"first")
    folder = root.folder("tissue_weights", "v001")
    checkpoints = folder / weights_stage.CHECKPOINTS
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint.pt"]
    weights_stage.drop_checkpoints(folder)
    weights_stage.drop_checkpoints(folder)
    assert not checkpoints.exists()


def test_confusion_is_rows_and_a_markdown_table(root: DataRoot, make: Callable[..., StageResult]) -> None:
    make("v001", b"first")
    folder = root.folder("tissue_weights", "v001")
    rows = pq.read_table(folder / weights_stage.CONFUSION_FILE).to_pylist()
    assert len(rows) == 16
    assert {"version": "v001", "truth": "dermis", "predicted": "epidermis", "pixels": 2} in rows
    lines = weights_stage.confusion_markdown(folder).splitlines()
    assert lines[0] == r"| truth \ predicted | background | dermis | epidermis | keratin |"
    assert lines[3] == "| dermis | 0 (0.0%) | 8 (80.0%) | 2 (20.0%) | 0 (0.0%) |"
    assert lines[5] == "| keratin | 0 | 0 | 0 | 0 |"
    make("v002", b"second", confusion=np.zeros((4, 4), int))
    assert "held out" in weights_stage.confusion_markdown(root.folder("tissue_weights", "v002"))


def test_a_champion_is_chosen_by_score_or_hand_and_must_be_the_file_that_was_trained(
    root: DataRoot, make: Callable[..., StageResult]
) -> None:
    trained(root, "v001", make("v001", b"first"))
    trained(root, "v002", make("v002", b"second", confusion=np.diag([9, 9, 9, 9])))
    (root.folder("tissue_weights") / ".v003.part").mkdir()
    assert weights_stage.choose_champion(root).version == "v002"
    by_hand = weights_stage.choose_champion(root, version="v001")
    assert (by_hand.weights_sha256, by_hand.chosen_by) == (sha256_bytes(b"first"), "hand")
    (root.folder("tissue_weights", "v002") / WEIGHTS_FILE).write_bytes(b"other")
    with pytest.raises(BadWeights, match="v002 wrote"):
        weights_stage.choose_champion(root)
    assert weights_stage.choose_champion(root, version="v001").version == "v001"
