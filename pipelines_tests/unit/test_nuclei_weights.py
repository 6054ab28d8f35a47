"""The network with two heads: its weights there and back, and the source system's checkpoint taken over."""

import pytest
import torch

from dermatome.classes import NUCLEUS_LABELS
from dermatome.errors import BadSetting, BadWeights
from dermatome.inference.torch_setup import import_smp
from dermatome.nuclei.maps.network import CHANNELS, NucleusCard, load_nucleus_weights
from dermatome.skin.tissue.network import load_tissue_weights
from dermatome.training.weights import read_card, save_weights
from dermatome.training.weights_import import import_weights

DECODER = (16, 8, 8, 8, 8)
SHUFFLED = ("macrophage", "background", "lymphocyte", "epithelial", "neutrophil")


class Theirs(torch.nn.Module):
    """The source's network, written down as its checkpoint's names say."""

    def __init__(self, kernel_px, in_sequence):
        super().__init__()
        smp = import_smp()
        self.base = smp.Unet("resnet18", encoder_weights=None, decoder_channels=DECODER, classes=7)
        heads = (torch.nn.Conv2d(8, channels, kernel_px, padding=kernel_px // 2) for channels in (5, 3))
        drop = torch.nn.Dropout2d(0.3)
        self.sem_head, self.ter_head = (torch.nn.Sequential(drop, h) if in_sequence else h for h in heads)

    def forward(self, images):
        features = self.base.decoder(self.base.encoder(images))
        return self.sem_head(features), self.ter_head(features)


def checkpoint(path, network, **more):
    torch.save({"model_state": network.state_dict(), "epoch": 12, "best": 0.7, **more}, path)
    return path


@pytest.mark.parametrize(("kernel_px", "in_sequence"), [(1, False), (3, True)])
def test_the_source_s_checkpoint_gives_its_numbers(tmp_path, kernel_px, in_sequence):
    torch.manual_seed(0)
    theirs = Theirs(kernel_px, in_sequence).eval()
    out = tmp_path / "w.safetensors"
    file = checkpoint(tmp_path / "best.pt", theirs)
    made = import_weights(
        NucleusCard, file, out, mpp=0.25, encoder="resnet18", classes=SHUFFLED, licence="CC BY-NC-SA 4.0"
    )
    loaded = load_nucleus_weights(out)
    assert loaded.sha256 == made.sha256
    assert (loaded.card.decoder_channels, loaded.card.mpp, loaded.card.tile_px) == (DECODER, 0.25, 256)
    assert loaded.card.licence == "CC BY-NC-SA 4.0"
    image = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        semantic, ternary = theirs(image)
        ours = loaded.network(image)
    assert ours.shape == (2, CHANNELS, 64, 64)
    for channel, label in enumerate(SHUFFLED):
        torch.testing.assert_close(ours[:, NUCLEUS_LABELS.index(label)], semantic[:, channel])
    torch.testing.assert_close(ours[:, 5:], ternary)
    assert "What else the checkpoint held: best, epoch." in made.not_carried_over


def test_files_that_are_no_network_with_two_heads_are_refused(tmp_path):
    network, out = Theirs(1, False), tmp_path / "w.safetensors"

    def refused(says, state):
        torch.save({"model_state": state}, tmp_path / "best.pt")
        with pytest.raises((BadWeights, BadSetting), match=says) as caught:
            import_weights(NucleusCard, tmp_path / "best.pt", out, encoder="resnet18", mpp=0.25)
        assert "\n" not in str(caught.value)
        assert not out.exists()

    state = network.state_dict()
    refused("0 tensors in ter_head", {n: t for n, t in state.items() if not n.startswith("ter_head")})
    wide = {**state, "ter_head.weight": torch.zeros(2, 8, 1, 1), "ter_head.bias": torch.zeros(2)}
    refused("2 output channels, but this network has 3 classes", wide)
    refused("kernels of different sizes", {**state, "ter_head.weight": torch.zeros(3, 8, 3, 3)})
    tissue = import_smp().Unet("resnet18", encoder_weights=None, decoder_channels=DECODER, classes=4)
    refused("0 tensors in sem_head", tissue.state_dict())


def test_half_floats_and_two_kinds_of_weights_are_not_mixed_up(tmp_path):
    card = NucleusCard("resnet18", DECODER, 0.25, (0.2, 0.3), 0.25, 0.25, scores={"binary_pq": 0.8})
    network = card.build()
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_weights(whole, network.state_dict(), card)
    save_weights(half, network.state_dict(), card, half=True)
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    loaded = load_nucleus_weights(half)
    assert loaded.card == card == read_card(half, NucleusCard)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(loaded.network.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
    with pytest.raises(BadWeights, match="'dermatome-nuclei-1', and 'dermatome-tissue-1' is read"):
        load_tissue_weights(half)
    huge = {name: tensor + 1e6 for name, tensor in network.state_dict().items()}
    with pytest.raises(BadWeights, match="half floats cannot hold"):
        save_weights(half, huge, card, half=True)
