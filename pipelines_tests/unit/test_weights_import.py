"""Others' weights taken over, and slides at scales that weights were not trained at."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dermatome.classes import TISSUE_LABELS
from dermatome.cli.app import app
from dermatome.errors import BadSetting, BadWeights
from dermatome.inference.torch_setup import import_smp
from dermatome.skin.tissue.network import TissueCard, load_tissue_weights
from dermatome.skin.tissue.segment import check_scale
from dermatome.skin.tissue.settings import TissueSettings
from dermatome.skin.tissue.task import TissueTraining
from dermatome.slides.slide import MppSource, Slide
from dermatome.training.unet import build_network
from dermatome.training.weights import check_same_network
from dermatome.training.weights_import import import_weights

CHANNELS = (16, 8, 8, 8, 8)
SHUFFLED = ("keratin", "background", "epidermis", "dermis")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network("resnet18", 4, CHANNELS).eval()


@pytest.fixture
def file(tmp_path, network):
    path = tmp_path / "theirs.pt"
    torch.save(network.state_dict(), path)
    return path


def test_a_plain_state_dict_becomes_weights_in_our_order_of_classes(file, tmp_path, network):
    out = tmp_path / "w.safetensors"
    made = import_weights(TissueCard, file, out, encoder="resnet18", mpp=1.0, classes=SHUFFLED, licence="CC BY 4.0")
    loaded = load_tissue_weights(out)
    assert (loaded.sha256, loaded.card.decoder_channels, loaded.card.mpp) == (made.sha256, CHANNELS, 1.0)
    assert loaded.card.licence == "CC BY 4.0"
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        theirs, ours = network(image)[0], loaded.network(image)[0]
    for channel, label in enumerate(SHUFFLED):
        torch.testing.assert_close(ours[TISSUE_LABELS.index(label)], theirs[channel])
    said = " ".join(made.not_carried_over)
    assert all(word in said for word in ("scores", "leakage", "normalisation", "scale"))


def test_a_checkpoint_around_it_and_the_command(file, tmp_path, network):
    state = {f"module.{name}": tensor.half() for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 7, "optimizer": {"lr": 0.1}}, file)
    out = tmp_path / "w.safetensors"
    arguments = ["tissue", "import-weights", str(file), "--out", str(out), "--encoder", "resnet18", "--mpp", "2"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "What else the checkpoint held: epoch, optimizer." in done.output
    assert load_tissue_weights(out).card.mpp_range == (2.0, 2.0)


@pytest.mark.parametrize("architecture", ["fpn", "unetplusplus", "deeplabv3plus"])
def test_other_networks_of_the_library_are_predicted_with_and_not_fine_tuned(tmp_path, architecture):
    theirs = import_smp().create_model(architecture, "resnet18", encoder_weights=None, classes=4).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    out = tmp_path / "w.safetensors"
    arguments = ["tissue", "import-weights", str(tmp_path / "theirs.pt"), "--out", str(out), "--encoder", "resnet18"]
    done = CliRunner().invoke(app, [*arguments, "--mpp", "1", "--architecture", architecture])
    assert done.exit_code == 0, done.output
    loaded, image = load_tissue_weights(out), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.network(image), theirs(image))
    with pytest.raises(BadWeights, match=f"has the architecture {architecture}, and cannot be fine-tuned"):
        check_same_network(loaded, TissueTraining())


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_what_does_not_fit_is_refused_and_no_code_is_run(file, tmp_path, network, capsys):
    def refused(says, path=file, **changes):
        options = {"encoder": "resnet18", "mpp": 1.0} | changes
        with pytest.raises((BadWeights, BadSetting), match=says) as caught:
            import_weights(TissueCard, path, tmp_path / "w.safetensors", **options)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "w.safetensors").exists()

    refused("not a U-Net with the encoder resnet34", encoder="resnet34")
    refused("give those 4", classes=("background", "dermis"))
    refused("above 0", mpp=0)
    refused("no architecture 'segnet' here: use one of unet, ", architecture="segnet")
    refused("Keras weights", tmp_path / "unet.h5")
    refused("cannot be read", tmp_path / "none.pt")
    for content, says in (
        ({"state_dict": Evil()}, "without running code"),
        ([1, 2], "no state dict"),
        ({"a": torch.zeros(1)}, "not a U-Net of segmentation-models-pytorch"),
        (build_network("resnet18", 2, CHANNELS).state_dict(), "has 2 output channels"),
        ({name: tensor * float("nan") for name, tensor in network.state_dict().items()}, "not finite"),
    ):
        torch.save(content, file)
        refused(says)
    assert capsys.readouterr().out == ""


def test_slides_far_from_the_scale_of_training_are_refused_unless_told():
    card = TissueCard("resnet18", CHANNELS, mpp=2.0, mpp_range=(1.5, 5.0), coarse_mpp=4.0, tile_mpp=0.5)
    slide = Slide("s", np.zeros((8, 8, 3), np.uint8), 0.5, MppSource.DECLARED, "")
    for mpp in (0.1, 0.5, 2.0, 3.0):
        check_scale(replace(slide, mpp=mpp), card, TissueSettings())
    coarse = replace(slide, mpp=3.1)
    sentence = "s has 3.1 µm per pixel but the weights were trained at 2, more than 1.5 times finer"
    with pytest.raises(BadSetting, match=re.escape(sentence)):
        check_scale(coarse, card, TissueSettings())
    check_scale(coarse, card, TissueSettings(any_scale=True))
    check_scale(slide, card, TissueSettings(coarse_mpp=7.0))
    for mpp in (0.9, 7.6):
        with pytest.raises(BadSetting, match="coarse pass"):
            check_scale(slide, card, TissueSettings(coarse_mpp=mpp))
        check_scale(slide, card, TissueSettings(coarse_mpp=mpp, any_scale=True))
