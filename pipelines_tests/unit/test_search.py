"""Search for settings: killed and resumed, enlarged, in parallel, pruned, and its best trial as a run config."""

import multiprocessing
import os
import signal
from dataclasses import replace

import duckdb
import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest

from dermatome.errors import BadSetting
from dermatome.imaging.augmentation import AugmentSettings
from dermatome.inference.compute import Compute
from dermatome.labels.palette import Palette
from dermatome.reports.search import write_search
from dermatome.skin.tiles.crops import TilePair
from dermatome.skin.tissue.network import TissueCard
from dermatome.skin.tissue.task import TissueTask, TissueTraining
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import PREVIEW_FILE, DataRoot
from dermatome.training import search
from dermatome.training.data import Split
from dermatome.training.search import SearchSettings, SearchSpace, best_config, open_study, run_search, trial_settings
from dermatome.training.settings import settings_from
from dermatome.training.trainer import Trained
from dermatome.warehouse.store import build_store
from pipelines_tests.records import put_record

CPU = Compute(device="cpu", precision="fp32", threads=1, device_name="cpu")
BASE = TissueTraining(epochs=3, mpp=0.5, seed=4)


def fake_train(task, compute, *, checkpoint_dir, on_epoch, **options):
    """Better the nearer the learning rate is to 1e-3; notes each start, and whether it found a checkpoint."""
    settings, checkpoints = task.settings, checkpoint_dir
    note = checkpoints.parent.parent / "starts.txt"
    with note.open("a") as file:
        file.write(f"{settings.learning_rate!r} {(checkpoints / 'checkpoint.pt').is_file()}\n")
    score = 1 - 0.3 * abs(np.log10(settings.learning_rate) + 3)
    for epoch in (1, 2, 3):
        write_atomic(checkpoints / "checkpoint.pt", b"state")
        kill = checkpoints.parent.parent / "kill"
        if epoch == 2 and kill.exists() and len(note.read_text().splitlines()) == int(kill.read_text()):
            kill.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        on_epoch({"epoch": epoch, "mean_iou": score * epoch / 3}, epoch / 3)
    card = TissueCard("resnet18", (8,), 1.0, (1.0, 1.0), 1.0, 0.5, scores={"mean_iou": score}, steps=3)
    return Trained({}, card, None, None, None, False)


def searched(folder, split, settings):
    search.train = fake_train  # in whatever process this is
    return run_search(folder, TissueTask(BASE, split), settings, CPU)


def tile(folder, name):
    """A tile whose two files contain its name, so that tiles differ."""
    path = folder / f"{name}.png"
    path.write_text(name)
    return TilePair(name=name, image_path=path, mask_path=path, palette=Palette.shipped("queensland"), slide="s")


def ended(study, *states):
    return [trial for trial in study.trials if trial.state.name in states]


@pytest.fixture
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiles")
    return Split((tile(folder, "a"),), (tile(folder, "b"),), "by hand")


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(search, "train", fake_train)


def test_eight_trials_killed_and_gone_on_with(tmp_path, split, fake):
    settings = SearchSettings(trials=8, base=BASE)
    (tmp_path / "kill").write_text("3")
    process = multiprocessing.get_context("spawn").Process(target=searched, args=(tmp_path, split, settings))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(ended(open_study(tmp_path), "COMPLETE", "PRUNED")) == 2
    study = run_search(tmp_path, TissueTask(BASE, split), settings, CPU)
    assert len(ended(study, "COMPLETE", "PRUNED")) == 8
    (again,) = (trial for trial in study.trials if "goes_on_from" in trial.user_attrs)
    assert study.trials[again.user_attrs["goes_on_from"]].state.name == "FAIL"
    starts = [line.split() for line in (tmp_path / "starts.txt").read_text().splitlines()]
    assert len(starts) == 9
    assert starts[2][0] == starts[3][0], "the killed trial is tried again with its settings"
    assert [found for _, found in starts] == ["False"] * 3 + ["True"] + ["False"] * 5  # and from its checkpoint
    assert len({rate for rate, _ in starts}) == 8, "what was drawn is not drawn again"
    assert run_search(tmp_path, TissueTask(BASE, split), settings, CPU).trials == study.trials  # nothing is left to do
    more = run_search(tmp_path, TissueTask(BASE, split), replace(settings, trials=10), CPU)
    assert len(ended(more, "COMPLETE", "PRUNED")) == 10
    assert not list((tmp_path / "trials").iterdir()), "checkpoints of ended trials are gone"


def test_what_would_not_be_comparable_is_refused_in_words(tmp_path, split, fake):
    settings = SearchSettings(trials=1, base=BASE, space=SearchSpace(crop_px=(64, 96)))
    run_search(tmp_path, TissueTask(BASE, split), settings, CPU)
    other = tile(tmp_path, "c")
    space = settings.space
    changed = BASE.changed(epochs=30, augment=AugmentSettings(scale=1.0))
    for name, tiles, asked in (
        ("tiles or their sides", replace(split, train=(*split.train, other)), settings),
        ("tiles or their sides", replace(split, validation=(other,)), settings),
        ("epochs, augment", split, replace(settings, base=changed)),
        ("range of learning_rate", split, replace(settings, space=space.changed(learning_rate=(1e-3, 1e-2)))),
        ("range of crop_px", split, replace(settings, space=space.changed(crop_px=(64, 128)))),
        ("range of encoder", split, replace(settings, space=space.changed(encoder=("resnet18",)))),
    ):
        with pytest.raises(BadSetting, match=f"another choice of {name}, so new .* start a study of another name"):
            run_search(tmp_path, TissueTask(BASE, tiles), replace(asked, trials=2), CPU)
    replaced = split.train[0].image_path
    replaced.write_text("other pixels in the same file")
    with pytest.raises(BadSetting, match="another choice of tiles or their sides, so"):
        run_search(tmp_path, TissueTask(BASE, split), settings, CPU)
    replaced.write_text("a")
    assert len(run_search(tmp_path, TissueTask(BASE, split), replace(settings, trials=2), CPU).trials) == 2, (
        "only more trials"
    )


def test_bad_trials_are_pruned_and_broken_ones_do_not_count(tmp_path, split, monkeypatch):
    def train(task, compute, **options):
        if len(open_study(tmp_path).trials) == 2:
            raise BadSetting("The encoder does not fit.")
        return fake_train(task, compute, **options)

    monkeypatch.setattr(search, "train", train)
    study = run_search(tmp_path, TissueTask(BASE, split), SearchSettings(trials=12, base=BASE), CPU)
    assert len(ended(study, "PRUNED")) > 0
    (failed,) = ended(study, "FAIL")
    assert failed.user_attrs["ended"] == "The encoder does not fit."
    assert study.best_value == max(trial.value for trial in ended(study, "COMPLETE"))
    with pytest.raises(BadSetting, match="validate on"):
        run_search(tmp_path, TissueTask(BASE, replace(split, validation=())), SearchSettings(), CPU)


def test_two_processes_share_a_study(tmp_path, split, fake, monkeypatch):
    monkeypatch.setattr(search, "_work", _work)
    study = run_search(tmp_path, TissueTask(BASE, split), SearchSettings(trials=5, parallel=2, base=BASE), CPU)
    assert len(ended(study, "COMPLETE", "PRUNED")) == 5
    assert len({trial.params["learning_rate"] for trial in study.trials}) == 5


_REAL_WORK = search._work


def _work(*args):
    search.train = fake_train  # in the other process, which is a fresh one
    return _REAL_WORK(*args)


def test_the_best_trial_becomes_a_run_config(tmp_path, split, fake):
    settings = SearchSettings(
        trials=30, base=BASE, space=SearchSpace(crop_px=[64, 96], encoder=["resnet18", "resnet34"])
    )
    study = run_search(tmp_path / "study", TissueTask(BASE, split), settings, CPU)
    config = best_config(study, settings)
    best = trial_settings(optuna.trial.FixedTrial(study.best_trial.params), BASE, settings.space)
    assert settings_from(TissueTraining, config) == best
    assert best.crop_px in (64, 96)
    assert best.augment.stain == pytest.approx(AugmentSettings().stain * study.best_trial.params["augment_strength"])
    root = DataRoot(tmp_path)
    folder = root.folder("tissue_search", "s1")
    result = write_search(folder, "s1", study, settings)
    assert result.values["complete"] + result.values["pruned"] == 30
    assert result.values["best_mean_iou"] == study.best_value
    assert result.values["most_important"] == "learning_rate"  # which alone decides here
    for name in ("history.png", "importance.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert (folder / PREVIEW_FILE).is_file()
    assert pq.read_table(folder / "trials.parquet").num_rows == 30
    put_record(root, "tissue_search", "s1", **vars(result))
    build_store(root)
    with duckdb.connect(str(root.store), read_only=True) as store:
        found = store.execute("select max(mean_iou) from search_trials where state = 'complete'").fetchone()
    assert found == (study.best_value,)
    with pytest.raises(BadSetting, match="No trial of the search has finished"):
        best_config(open_study(tmp_path / "empty"), settings)


def test_spaces_that_do_not_exist():
    for wrong in ({"learning": [0, 1]}, {"dropout": [0.5, 0.1]}, {"dropout": [0.5]}, {"encoder": [1, 2]}):
        with pytest.raises(BadSetting):
            SearchSpace(**wrong)
    with pytest.raises(BadSetting):
        SearchSettings(trials=0)
