"""Slides through a network that reads the truth off colours: maps, nuclei, batches, background, scales, and files."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from dermatome.classes import NucleusClass
from dermatome.errors import BadSetting
from dermatome.geometry import Size
from dermatome.inference.backends import TorchRunner
from dermatome.inference.compute import choose_compute
from dermatome.inference.probabilities import Probabilities
from dermatome.metrics.panoptic import nucleus_values, score_nuclei
from dermatome.nuclei.maps.files import write_outlines
from dermatome.nuclei.maps.network import HEADS, NucleusCard, load_nucleus_weights
from dermatome.nuclei.maps.networks import TOY_WEIGHTS
from dermatome.nuclei.maps.segment import NucleusNetwork, fitted_stain, network_size, prepare_nuclei, segment_nuclei
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.registry.champion import Weights
from dermatome.registry.model_kinds import NUCLEI
from dermatome.settings import Settings
from dermatome.slides.slide import MppSource, Slide
from dermatome.storage.layout import DataRoot
from dermatome.synthetic.nuclei import toy_nuclei
from dermatome.training.weights import LoadedWeights
from dermatome.web.context import WebContext
from dermatome.web.nuclei import find_nuclei
from dermatome.web.uploads import UploadLimits

EMPTY = 240
ENCODER = "tu-tf_mobilenetv3_small_minimal_100"
CARD = NucleusCard(ENCODER, (8,) * 5, 0.25, (0.2, 0.3), 0.25, 0.25, mean=(0.0,) * 3, std=(1.0,) * 3)


class FromColour(torch.nn.Module):
    """Red says the semantic class, green the ternary one: 20 for each step; the rest is background."""

    def forward(self, images):
        parts = []
        for channel, count in enumerate(HEADS):
            seen = images[:, channel : channel + 1] * 255
            seen = torch.where(seen > 200, 0.0, seen) / 20
            parts.append(-8 * (seen - torch.arange(count).view(1, -1, 1, 1)) ** 2)
        return torch.cat(parts, dim=1)


def painted(maps, mpp=0.25, name="s"):
    pixels = np.stack([20 * maps.semantic, 20 * maps.ternary, np.full_like(maps.ternary, 90)], axis=-1)
    return Slide(name, pixels, mpp, MppSource.DECLARED, "")


class Same(torch.nn.Module):
    """Gives the same logits at every pixel."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits, dtype=torch.float32).view(1, -1, 1, 1)

    def forward(self, images):
        return self.logits.expand(len(images), -1, *images.shape[2:])


def network_of(module, card=CARD):
    module = Probabilities(module, card.mean, card.std, heads=HEADS).eval()
    runner = TorchRunner(module, choose_compute("cpu", "fp32", 1))
    return NucleusNetwork(LoadedWeights(lambda: module, card, "", None), runner)


@pytest.fixture(scope="module")
def network():
    return network_of(FromColour())


@pytest.fixture(scope="module")
def toy():
    return toy_nuclei(5, Size(200, 230))


def same(one, other):
    maps = ("semantic", "ternary", "instances")
    assert all((getattr(one, name).whole() == getattr(other, name).whole()).all() for name in maps)
    pd.testing.assert_frame_equal(one.table, other.table)


def test_maps_are_the_truth_and_no_batch_or_company_changes_them(network, toy):
    slide = painted(toy.maps)
    settings = NucleusSettings(tile_px=96, overlap_px=32)
    (found,) = segment_nuclei([slide], network, settings)
    assert (found.semantic.whole() == toy.maps.semantic).mean() > 0.999
    assert (found.ternary.whole() == toy.maps.ternary).mean() > 0.999
    for batch in (1, 3, 64):
        same(segment_nuclei([slide], network, settings.changed(batch=batch))[0], found)
    first, second = segment_nuclei([painted(toy.maps, name="other"), slide], network, settings)
    same(first, found)
    same(second, found)
    kinds = toy.maps.classes[np.unique(toy.maps.instances)[1:]]
    for kind in list(NucleusClass)[1:]:
        count = int((found.table["class"] == kind.label).sum())
        assert abs(count - int((kinds == kind).sum())) <= max(3, 0.15 * len(kinds))


def test_background_is_not_run_and_is_background_in_both_maps(network, toy):
    slide = painted(toy.maps)
    wide = np.full((200, 900, 3), EMPTY, np.uint8)
    wide[:, :230] = slide.pixels
    settings = NucleusSettings(tile_px=96, overlap_px=32)
    lonely = replace(slide, pixels=wide)
    (found,) = segment_nuclei([lonely], network, settings)
    (everything,) = segment_nuclei([lonely], network, settings.changed(skip_background=False))
    assert found.tiles < everything.tiles / 2
    assert not found.ternary.whole()[:, 300:].any()
    assert not found.semantic.whole()[:, 300:].any()
    same(found, everything)


def test_what_a_network_sees_on_background_beside_tissue_is_left_out():
    dreamer = network_of(Same(0, 9, 0, 0, 0, 0, 9, 0))
    pixels = np.full((256, 256, 3), EMPTY, np.uint8)
    pixels[:, 96:160] = 120
    slide = Slide("s", pixels, 0.25, MppSource.DECLARED, "")
    (seen,) = segment_nuclei([slide], dreamer)
    for found, inside in ((seen.instances, 1), (seen.semantic, 1), (seen.ternary, 1)):
        maps = found.whole()
        assert (maps[:, 112:144] == inside).all()
        assert not maps[:, :80].any()
        assert not maps[:, 176:].any()
    (everywhere,) = segment_nuclei([slide], dreamer, NucleusSettings(only_tissue=False, skip_background=False))
    assert everywhere.instances.whole().all()


@pytest.mark.parametrize(
    ("semantic", "has_classes"), [([9, 0, 0, 0, 0], True), ([0, 9, 0, 0, 0], False)], ids=["blind", "never learnt"]
)
def test_a_nucleus_without_a_class_is_shown_and_has_no_score(tmp_path, semantic, has_classes):
    blind, compute = (
        network_of(Same(*semantic, 0, 9, 0), replace(CARD, has_classes=has_classes)),
        choose_compute("cpu", "fp32", 1),
    )
    slide = Slide("s", np.full((64, 64, 3), 120, np.uint8), 0.25, MppSource.DECLARED, "")
    source = Weights(DataRoot(tmp_path), NUCLEI, "blind", "b" * 64)
    context = WebContext(source.root, compute, UploadLimits(), tmp_path)
    found = find_nuclei(slide, context, Settings(), source, blind, lambda share, text: None)
    assert found.nuclei.table["class"].tolist() == ["unclassified"]
    assert found.nuclei.whole().classes.tolist() == [0, 0]
    assert sum(found.til.counts.values()) == 0
    assert (found.til.lymphocytes_per_mm2, found.til.immune_share) == (None, None)
    assert "unclassified</th><td>1</td>" in found.tables(tmp_path)
    write_outlines(tmp_path / "s.geojson", found.nuclei, slide)
    (outline,) = json.loads((tmp_path / "s.geojson").read_text())["features"]
    assert outline["properties"]["classification"] == {"name": "unclassified", "color": [128, 128, 128]}


def test_a_slide_of_another_scale_is_brought_to_the_network_s_and_its_maps_back(network, toy):
    half = painted(toy.maps)
    half = replace(half, pixels=half.pixels[::2, ::2], mpp=0.5)
    assert network_size(half, 0.25) == Size(200, 230)
    assert network_size(replace(half, mpp=0.26), 0.25) == half.size
    with pytest.raises(BadSetting, match="more than 4 times finer"):
        network_size(replace(half, mpp=1.1), 0.25)
    (found,) = segment_nuclei([half], network, NucleusSettings(tile_px=96, overlap_px=32))
    assert found.instances.shape == (100, 115)
    large = found.table["area_um2"] > 20
    (full,) = segment_nuclei([painted(toy.maps)], network, NucleusSettings(tile_px=96, overlap_px=32))
    assert abs(large.sum() - (full.table["area_um2"] > 20).sum()) <= 0.15 * large.sum()


def test_the_stain_is_changed_before_the_network_sees_it(network, toy):
    slide = painted(toy.maps)
    settings = NucleusSettings(tile_px=96, overlap_px=32)
    (found,) = segment_nuclei([slide], network, settings, normalise=[lambda rows: np.full_like(rows, EMPTY)])
    assert len(found.table) == 0
    assert found.tiles == 0


def test_a_slide_is_normalised_as_the_card_says_unless_told(network, toy):
    learnt = replace(network, weights=replace(network.weights, card=replace(CARD, normalised_stain=True)))
    for told, known, wanted in ((None, learnt, True), (None, network, False), (False, learnt, False)):
        fit = fitted_stain(toy.slide, known, NucleusSettings(normalise_stain=told))
        assert (fit is not None) is wanted, f"told {told}, card {known.weights.card.normalised_stain}"
    assert fitted_stain(toy.slide, network, NucleusSettings(normalise_stain=True)) is not None


def test_it_finds_nuclei_and_tells_their_classes():
    settings = NucleusSettings(batch=4)
    assert TOY_WEIGHTS.stat().st_size < 5_000_000
    loaded = load_nucleus_weights(TOY_WEIGHTS)
    network = prepare_nuclei(loaded, choose_compute("cpu", "fp32", 1, backend="torch"), settings)
    toys = [toy_nuclei(seed, Size(256, 256)) for seed in (100, 101, 102)]
    found = segment_nuclei([toy.slide for toy in toys], network, settings)
    scores = nucleus_values(
        [score_nuclei(toy.maps, one.whole(), toy.slide.mpp) for toy, one in zip(toys, found, strict=True)]
    )
    assert scores["pq_binary"] >= 0.70
    assert scores["class_accuracy"] >= 0.85


def test_a_network_that_was_kept_is_not_built_again(tmp_path):
    tiles = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    compute, settings = choose_compute("cpu", "fp32", 1, backend="openvino"), NucleusSettings(batch=2, tile_px=64)

    def ready(weights):
        return prepare_nuclei(weights, compute, settings, tmp_path).runner

    (wanted,) = ready(load_nucleus_weights(TOY_WEIGHTS)).run(tiles)
    later = load_nucleus_weights(TOY_WEIGHTS, later=True)
    np.testing.assert_array_equal(ready(later).run(tiles)[0], wanted)
    assert "network" not in vars(later)
