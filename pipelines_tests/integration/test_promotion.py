"""Champion and challenger: frozen hold-out set, drops that block promotion, and the masks a promotion makes stale."""

import json
import subprocess
import sys
from functools import partial

import dagster as dg
import numpy as np
import pytest
import torch

from assets.partitions import SLIDES, TRAINING_VERSIONS
from dermatome.errors import BadSetting, MissingInput
from dermatome.geometry import Box
from dermatome.inference.compute import choose_compute
from dermatome.pipeline.cached_stage import WaitingStage
from dermatome.registry.champion import choose_champion
from dermatome.registry.hold_out import freeze_hold_out, hold_out_rows, score_on_hold_out
from dermatome.registry.leakage import find_leaks
from dermatome.registry.model_kinds import TISSUE
from dermatome.registry.promotion import PromotionSettings, compare_with_champion, hold_out_record
from dermatome.skin.tiles.crops import cut_tiles, load_tiles, manifest_rows
from dermatome.skin.tiles.rois import Roi
from dermatome.skin.tissue import stage as mask_stage
from dermatome.skin.tissue.network import TissueCard
from dermatome.skin.tissue.report import score_tissue, tissue_rows
from dermatome.storage.layout import WEIGHTS_FILE
from dermatome.storage.record import StageResult
from dermatome.training.unet import build_network
from dermatome.training.weights import save_weights
from orchestration.definitions import build_defs
from pipelines_tests.asset_runs import put, run
from resources.dagster_private import stale_status

HOLD_OUT, HOLD_OUT_SCORES = "tissue_hold_out", "tissue_hold_out_scores"
GOOD = {"iou_background": 0.9, "iou_dermis": 0.8, "iou_epidermis": 0.9, "iou_keratin": 0.7, "mean_iou": 0.825}


def weights_of(root, version, **scores):
    """Tiny weights whose colours differ by version."""
    torch.manual_seed(len(version) + ord(version[-1]))
    card = TissueCard("tu-tf_mobilenetv3_small_minimal_100", (8,) * 5, 1.0, (1.0, 2.0), 2.0, 0.5, tile_px=64)
    state = build_network(card.encoder, 4, card.decoder_channels).state_dict()
    sha256 = save_weights(root.folder("tissue_weights", version) / WEIGHTS_FILE, state, card)
    put(root, "tissue_weights", version, weights_sha256=sha256, **scores)
    return sha256


def tiles(root, slide, seed=0):
    folder = root.folder("training_tiles", slide)
    rng = np.random.default_rng(seed)
    mask = np.repeat(np.arange(128, dtype=np.uint8)[:, None] // 32, 128, axis=1)
    image = np.clip(60 * mask[..., None] + rng.normal(20, 15, (128, 128, 3)), 0, 255).astype(np.uint8)
    cut_tiles(slide, image, mask, [Roi("a", Box(0, 0, 128, 128))], folder)
    put(root, "training_tiles", slide)
    return folder


def test_the_hold_out_set_is_frozen_and_versions_are_scored_on_it(root):
    tiles(root, "a1")
    tiles(root, "a2", 1)

    def freeze(*slides, **options):
        folder = root.folder(HOLD_OUT, "new")
        sources = [root.folder("training_tiles", slide) for slide in slides]
        result = freeze_hold_out(root, TISSUE, sources, folder, tissue_rows, setting="slides", **options)
        put_folder = root.folder(HOLD_OUT, "current")
        if not put_folder.exists():
            folder.rename(put_folder)
            put(root, HOLD_OUT, "current", **result.values)
        return result

    def score(version):
        run = partial(score_tissue, version=version, compute=choose_compute("cpu", "fp32", 1), mpp=0.5)
        return score_on_hold_out(root, TISSUE, version, root.folder(HOLD_OUT_SCORES, version), 0.02, run)

    weights_of(root, "v001")
    unscored = score("v001")
    assert (unscored.outcome, unscored.checks[0].passed) == ("no_hold_out", True)
    frozen = freeze("a1")
    assert frozen.values["samples"] == 1
    (row,) = hold_out_rows(root, TISSUE)
    assert (row.side, row.slide) == ("hold_out", "a1")
    (root.folder("training_tiles", "a1") / "images" / "a1_a.png").unlink()  # the hold-out set keeps its own copies
    scored = score("v001")
    assert scored.values["hold_out_sha256"] == frozen.values["hold_out_sha256"]
    assert 0 <= scored.values["mean_iou"] <= 1
    assert scored.checks[0].passed
    assert (root.folder(HOLD_OUT_SCORES, "v001") / "samples.png").is_file()
    learnt = manifest_rows(load_tiles(root.folder(HOLD_OUT, "current") / "samples" / "a1"), "train")
    assert {leak.why for leak in find_leaks([*learnt, row])} == {"the slide a1", "the same file"}
    with pytest.raises(BadSetting, match="another hold-out set already, of a1"):
        freeze("a2")
    with pytest.raises(BadSetting, match="Name what the hold-out set consists of: set slides"):
        freeze()
    with pytest.raises(MissingInput, match="a9"):
        freeze("a9")


def scored(root, version, sha256, hold_out="p", **scores):
    put(root, HOLD_OUT_SCORES, version, weights_sha256=sha256, hold_out_sha256=hold_out, **{**GOOD, **scores})


def test_a_drop_of_any_class_blocks_promotion(root):
    first, second = weights_of(root, "v001", mean_iou=0.8), weights_of(root, "v002", mean_iou=0.9)
    put(root, "tissue_champion", "current", version="v001", weights_sha256=first)
    assert choose_champion(root, TISSUE).version == "v002"  # without a hold-out set by score alone
    put(root, HOLD_OUT, "current", hold_out_sha256="p", sources="a1")
    with pytest.raises(MissingInput, match="v002 is not scored on the hold-out set"):
        choose_champion(root, TISSUE)
    scored(root, "v002", second, iou_keratin=0.66, mean_iou=0.9)
    with pytest.raises(BadSetting, match="champion v001 is not scored on this hold-out set"):
        choose_champion(root, TISSUE)
    scored(root, "v001", first)
    with pytest.raises(BadSetting, match=r"worse than the champion v001 on the hold-out set: IoU of keratin by 0.040"):
        choose_champion(root, TISSUE)
    assert choose_champion(root, TISSUE, margin=0.05).version == "v002"
    despite = choose_champion(root, TISSUE, despite_drop=True)
    assert (despite.version, despite.despite_drop) == ("v002", True)
    assert choose_champion(root, TISSUE, version="v001").version == "v001"  # the champion itself
    scored(root, "v002", second, iou_keratin=None)
    gone = compare_with_champion(root, TISSUE, "v002", hold_out_record(root, TISSUE, "v002").values, 0.02)
    assert not gone.passed
    assert gone.values["drop_iou_keratin"] == pytest.approx(0.7)
    scored(root, "v002", second, iou_keratin=0.685, mean_iou=0.9)
    assert choose_champion(root, TISSUE, by="hold_out_mean_iou").version == "v002"
    scored(root, "v002", second, hold_out="other")
    with pytest.raises(MissingInput, match="not scored on the hold-out set"):
        choose_champion(root, TISSUE)
    with pytest.raises(BadSetting, match="margin"):
        PromotionSettings(margin=-0.1)


KILLED_PROMOTIONS = """
import json, os, sys, tempfile
from pathlib import Path
from dermatome.registry.champion import Choice, find_champion, promote
from dermatome.registry.model_kinds import TISSUE
from dermatome.storage.layout import DataRoot

root = DataRoot(Path(sys.argv[1]))

def killed(step):
    steps = iter(range(10_000))
    def counted(call):
        def wrapped(*args, **options):
            if next(steps) == step:
                os._exit(9)
            return call(*args, **options)
        return wrapped
    for module, name in ((tempfile, "mkstemp"), (os, "fsync"), (os, "chmod"), (os, "replace"), (os, "rename")):
        setattr(module, name, counted(getattr(module, name)))
    promote(root, TISSUE, Choice("v002", "b" * 64, "hand", None), {}, code_version="1", run_id="r")
    os._exit(0)

found, status = [], 9
while status:
    child = os.fork()
    if not child:
        killed(len(found))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    champion = find_champion(root, TISSUE)
    found.append([status, champion.name, champion.sha256[0]])
print(json.dumps(found))
"""


def test_a_promotion_that_is_killed_at_any_step_leaves_the_old_or_the_new_champion(root):
    put(root, "tissue_champion", "current", version="v001", weights_sha256="a" * 64)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_PROMOTIONS, str(root.path)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    old, new = [9, "v001", "a"], [9, "v002", "b"]
    assert len(found) >= 4
    assert found[0] == old
    assert all(seen in (old, new) for seen in found[:-1])
    assert found[-1] == [0, "v002", "b"]


def test_the_check_blocks_the_champion_in_the_same_run(root, instance):
    first = weights_of(root, "v001", mean_iou=0.8)
    weights_of(root, "v002", mean_iou=0.9)
    tiles(root, "a1")
    put(root, "tissue_champion", "current", version="v001", weights_sha256=first)
    instance.add_dynamic_partitions(TRAINING_VERSIONS.name, ["v001", "v002"])
    frozen = {"tissue_hold_out": {"annotated_slides": ["a1"]}}
    assert run(root, instance, "tissue_hold_out", config=frozen).success
    assert run(root, instance, HOLD_OUT_SCORES, key="v001").success
    record = hold_out_record(root, TISSUE, "v001")
    better = {name: 1.0 for name in record.values if name.startswith("iou_")}
    put(root, HOLD_OUT_SCORES, "v001", **{**record.values, **better})  # nobody beats this champion
    done = run(root, instance, HOLD_OUT_SCORES, "tissue_champion", key="v002")
    (check,) = done.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("no_class_drops", False)
    assert not done.asset_materializations_for_node("tissue_champion")
    assert not run(root, instance, "tissue_champion").success
    choice = {"tissue_champion": {"version": "v002", "despite_drop": True}}
    assert run(root, instance, "tissue_champion", config=choice).success


def test_promotion_makes_exactly_the_masks_of_the_old_champion_stale(root, instance, monkeypatch):
    for version, score in (("v001", 0.8), ("v002", 0.9)):
        weights_of(root, version, mean_iou=score)

    def stage(root, champion, *settings):
        return WaitingStage(
            root, "epidermis_masks", lambda key, folder: StageResult("made", f"mask by {champion.name}", {}),
            lambda key: {"slide_images": "image", "tissue_champion": champion.data_version},
        )  # fmt: skip

    monkeypatch.setattr(mask_stage, "MaskStage", stage)
    defs = build_defs(root.path)
    slides = ["s1", "s2", "s3"]
    instance.add_dynamic_partitions(SLIDES.name, slides)
    for slide in slides:
        tags = {"dagster/data_version": "image"}
        image = dg.AssetMaterialization("slide_images", partition=slide, tags=tags)
        instance.report_runless_asset_event(image)

    def promote(version):
        choice = {"tissue_champion": {"version": version}}
        assert run(root, instance, "tissue_champion", config=choice).success

    def stale():
        return [s for s in slides if stale_status(instance, defs, "epidermis_masks", s) == "STALE"]

    promote("v001")
    for slide in slides:
        assert run(root, instance, "epidermis_masks", key=slide).success
    assert stale() == []
    promote("v001")  # again: the same weights
    assert stale() == []
    promote("v002")
    assert stale() == slides
    assert run(root, instance, "epidermis_masks", key="s2").success
    assert stale() == ["s1", "s3"]
    promote("v001")
    assert stale() == ["s2"]


@pytest.mark.parametrize(("asset", "report"), [("skin_atlas", "atlas.html"), ("hpa_agreement", "agreement.html")])
def test_links_to_reports_name_the_finished_folder(root, instance, asset, report):
    done = run(root, instance, asset)
    (event,) = done.asset_materializations_for_node(asset)
    assert event.metadata[report].value == f"/results/{asset}/current/{report}"
    assert (root.folder(asset, "current") / report).is_file()
