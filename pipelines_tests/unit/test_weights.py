"""Weights files: the same bytes each time, back as they were, and refused when they do not fit."""

import json
import re
import resource
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save

from dermatome.errors import BadSetting, BadWeights
from dermatome.inference.torch_setup import import_smp
from dermatome.skin.tissue.network import TissueCard, load_tissue_weights
from dermatome.skin.tissue.task import TissueTraining
from dermatome.storage.files import sha256_file
from dermatome.training.encoders import ENCODERS
from dermatome.training.search import SearchSpace
from dermatome.training.unet import build_network
from dermatome.training.weights import card_path, expected_tensors, read_card, save_weights

CARD = TissueCard(
    encoder="resnet18", decoder_channels=(16, 8, 8, 8, 8), mpp=1.0, mpp_range=(0.7, 2.6), coarse_mpp=2.0, tile_mpp=0.5
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network(CARD.encoder, 4, CARD.decoder_channels).eval()


def test_there_and_back(tmp_path, network):
    path = tmp_path / "w.safetensors"
    card = replace(CARD, scores={"iou_epidermis": 0.9, "iou_keratin": None}, created_from=("s1",), settings={"seed": 3})
    sha256 = save_weights(path, network.state_dict(), card)
    assert sha256 == sha256_file(path)
    loaded = load_tissue_weights(path)
    assert (loaded.card, loaded.sha256) == (card, sha256)
    assert not loaded.network.training
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded.network(image), network(image))
    assert read_card(path, TissueCard) == card
    beside = json.loads(card_path(path).read_text())
    assert beside["sha256"] == sha256
    assert beside["scores"]["iou_epidermis"] == 0.9
    assert save_weights(tmp_path / "again.safetensors", network.state_dict(), card) == sha256


def refused(path, says, **kwargs):
    with pytest.raises(BadWeights, match=says) as caught:
        load_tissue_weights(path, **kwargs)
    assert "\n" not in str(caught.value)


def test_what_is_no_weights_file(tmp_path, network):
    path, state = tmp_path / "w.safetensors", network.state_dict()
    refused(path, f"no weights at {re.escape(str(path))}")
    save_weights(path, state, CARD)
    cut = path.read_bytes()[:-1000]
    torch.save(state, path)
    for data in (b"<html>", cut, path.read_bytes()):
        path.write_bytes(data)
        refused(path, "not a complete safetensors file")
    path.write_bytes(save(state))
    refused(path, "no readable weights card")


def test_tensors_and_cards_that_do_not_fit(tmp_path, network):
    path, state, name = tmp_path / "w.safetensors", dict(network.state_dict()), "segmentation_head.0.bias"
    without = {other: tensor for other, tensor in state.items() if other != name}
    for tensors, card, says in (
        (without, {}, rf"1 tensors are missing \(for example {re.escape(name)}\) and 0"),
        (state | {"hook": torch.zeros(1)}, {}, r"0 tensors are missing and 1 are unexpected \(for example hook\)"),
        (state | {name: torch.zeros(5)}, {}, "1 tensors of another shape"),
        (state | {name: torch.full((4,), float("nan"))}, {}, "not finite"),
        (state, {"format": "dermatome-tissue-9"}, "'dermatome-tissue-9'"),
        (state, {"mpp": -1.0}, "no readable weights card"),
        (state, {"classes": tuple("abcd")}, "for the classes a, b, c, d, not background, dermis, epidermis, keratin"),
    ):
        save_weights(path, tensors, replace(CARD, **card))
        refused(path, says)


@pytest.mark.parametrize(
    ("says", "changes"),
    [
        ("no encoder 'tu-hf-hub:some/model'", {"encoder": "tu-hf-hub:some/model"}),
        ("no encoder 'tu-local-dir:/etc'", {"encoder": "tu-local-dir:/etc"}),
        ("no encoder 'tu-convnext_xxlarge'", {"encoder": "tu-convnext_xxlarge"}),
        ("encoder: Input should be a valid string", {"encoder": ["resnet18"]}),
        ("decoder_channels.0: Input should be a valid integer", {"decoder_channels": ["a", 8, 8, 8, 8]}),
        ("decoder_channels.0: ", {"decoder_channels": [10**9, 8, 8, 8, 8]}),
        ("mpp_range.1: ", {"mpp_range": [1.0]}), ("classes: ", {"classes": 4}),
        ("coarse_mpp: ", {"coarse_mpp": float("nan")}), ("tile_px: ", {"tile_px": 10**6}),
        ("std.2: ", {"std": [0.2, 0.2, 0]}), ("mean.1: ", {"mean": [0.2, {}, 0.2]}),
        ("its scales do not lie between", {"coarse_mpp": 0.01}), ("its scales do not lie", {"mpp_range": [2.6, 0.7]}),
        ("settings: ", {"settings": []}), ("surprise: ", {"surprise": 1}), ("no readable weights card", []),
    ],
)  # fmt: skip
def test_a_card_with_an_impossible_value_is_refused_in_one_sentence_before_its_network_is_built(
    tmp_path, monkeypatch, says, changes
):
    path = tmp_path / "w.safetensors"
    card = json.dumps({**json.loads(CARD.to_json()), **changes} if changes else changes)
    path.write_bytes(save({}, metadata={"card": card}))
    monkeypatch.setattr(TissueCard, "build", lambda self: pytest.fail("the network was built"))
    refused(path, says)


def test_shapes_are_compared_before_the_network_takes_memory(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, {}, replace(CARD, encoder="timm-efficientnet-l2", decoder_channels=(2048,) * 5))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, "tensors are missing")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB; the network has 2 GB and more


def test_allowed_encoders_are_those_of_the_library_and_some_of_timm():
    own = {name for name in ENCODERS if not name.startswith("tu-")}
    assert own == set(import_smp().encoders.get_encoder_names())
    for name in {*ENCODERS - own, "mit_b0"}:
        card = replace(CARD, encoder=name)
        shapes = {tensor: value.shape for tensor, value in expected_tensors(card, "w").items()}
        assert shapes == {tensor: value.shape for tensor, value in card.build().state_dict().items()}


def test_unknown_encoders_are_a_setting_error():
    for name in ("resnet1", "tu-hf-hub:some/model", "tu-local-dir:/etc"):
        with pytest.raises(BadSetting, match=f"no encoder '{name}'"):
            build_network(name, 4, (16, 8, 8, 8, 8))
        with pytest.raises(BadSetting, match=f"no encoder '{name}'"):
            TissueTraining(encoder=name)
        with pytest.raises(BadSetting, match=f"no encoder '{name}'"):
            SearchSpace(encoder=[name])
    with pytest.raises(BadSetting, match="resnet18"):
        build_network("resnet18", 4, (16, 8))
