"""The commands `nuclei train` and `nuclei score` on patches of toys, and which patches are held out."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from dermatome.cli.app import app
from dermatome.errors import BadSetting
from dermatome.geometry import Size
from dermatome.nuclei.maps.network import NucleusCard, load_nucleus_weights
from dermatome.nuclei.maps.task import NucleusTask, NucleusTraining
from dermatome.nuclei.patches.cut import make_patches
from dermatome.nuclei.patches.files import load_patches, write_manifest
from dermatome.nuclei.patches.settings import PatchSettings
from dermatome.registry.lineage import Lineage
from dermatome.synthetic.nuclei import toy_nuclei
from dermatome.training.weights import LoadedWeights, save_weights
from pipelines_tests.nuclei_case import save_toy_case

CUT = PatchSettings(size_px=64, stride_px=32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Patches of 64 px of two patients, a toy of 96 px each."""
    root = tmp_path_factory.mktemp("patches")
    for number, case in enumerate(("one", "two")):
        save_toy_case(root / "cases" / case, [toy_nuclei(40 + number, Size(96, 96))])
        make_patches(root / "cases" / case, root / case, CUT)
    return [root / "one", root / "two"]


def test_patients_are_held_out_whole_unless_the_manifest_says_who(folders, tmp_path):
    settings = NucleusTraining(validation_share=0.5)
    split = NucleusTask.choose(folders, (), settings).split
    assert {patch.case for patch in split.train}.isdisjoint({patch.case for patch in split.validation})
    assert len(split.train) == len(split.validation) == 4
    assert "whole patients" in split.how
    given = NucleusTask.choose(folders[:1], folders[1:], settings).split
    assert {patch.case for patch in given.validation} == {"two"}
    with pytest.raises(BadSetting, match="8 patches have another scale than 0.5"):
        NucleusTask.choose(folders, (), settings.changed(mpp=0.5))
    rows = load_patches(*folders)
    for folder, side in zip(folders, ("validation", "train"), strict=True):
        write_manifest(folder, [replace(row, side=side) for row in rows if row.case == folder.name])
    told = NucleusTask.choose(folders, (), settings).split
    assert {patch.case for patch in told.validation} == {"one"}
    assert told.how == "as the manifest of the patches says"
    parent = LoadedWeights(
        torch.nn.Identity,
        replace(NucleusCard("e", (8,), 0.25, (0.2, 0.3), 0.25, 0.25), created_from=("one",)),
        "",
        tmp_path,
    )
    for given in ((folders, ()), (folders[1:], folders[:1])):
        with pytest.raises(BadSetting, match="such as one, were used .*, so its scores would be too good"):
            NucleusTask.choose(*given, settings, Lineage("parent", parent))


def test_train_and_score(folders, tmp_path):
    torch.manual_seed(0)
    card = NucleusCard("tu-tf_mobilenetv3_small_minimal_100", (8,) * 5, 0.25, (0.2, 0.3), 0.25, 0.25, tile_px=64)
    save_weights(tmp_path / "parent.safetensors", card.build().state_dict(), card)
    out = tmp_path / "w.safetensors"
    given = ["--patches", str(folders[0]), "--validation", str(folders[1]), "--out", str(out), "--crop-px", "64"]
    more = ["--epochs", "1", "--batch", "2", "--threads", "1", "--continue-from", str(tmp_path / "parent.safetensors")]
    done = CliRunner().invoke(app, ["nuclei", "train", *given, *more, "--no-immune-sampling"])
    assert done.exit_code == 0, done.output
    assert "boundary    Dice" in done.output
    trained = load_nucleus_weights(out).card
    assert (trained.decoder_channels, trained.created_from) == ((8,) * 5, ("one",))
    assert trained.settings["sampling"]["enabled"] is False
    assert trained.settings["loss"]["boundary_weighting"] is False
    told = tmp_path / "scores.json"
    arguments = ["--patches", str(folders[1]), "--weights", str(out), "--out", str(told), "--threads", "1"]
    done = CliRunner().invoke(app, ["nuclei", "score", *arguments, "--batch", "1", "--backend", "torch"])
    assert done.exit_code == 0, done.output
    found = json.loads(told.read_text())
    assert (found["patches"], found["images"]) == (4, 1)
    assert found["scores"]["dice_boundary"] == pytest.approx(trained.scores["ternary_dice_boundary"], abs=0.25)
    assert "pq_binary" in done.output
    make_patches(folders[1].parent / "cases" / "two", tmp_path / "two", CUT.changed(normalise_stain=True))
    normal = ["--patches", str(tmp_path / "two"), "--weights", str(out)]
    done = CliRunner().invoke(app, ["nuclei", "score", *normal, "--threads", "1"])
    assert isinstance(done.exception, BadSetting)
    assert "trained on patches without normalise_stain, but 4 patches differ" in str(done.exception)


@pytest.mark.parametrize("text", ['{"mine": 1}', "{", "[]", ""])
def test_scores_of_what_is_no_record_of_nuclei_are_refused(tmp_path, text):
    (tmp_path / "nuclei").mkdir()
    (tmp_path / "nuclei" / "a.json").write_text(text)
    done = CliRunner().invoke(app, ["nuclei", "til", str(tmp_path / "nuclei"), "--out", str(tmp_path / "til")])
    assert done.exit_code == 1
    assert "a.json is not a readable record of 'nuclei predict'" in done.stderr
    assert "delete" not in done.stderr
