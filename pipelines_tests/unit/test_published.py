"""Networks that others published: files of the same form, made here, fetched from a server on this machine."""

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dermatome.classes import TISSUE_LABELS
from dermatome.cli.app import app
from dermatome.errors import BadSetting, BadWeights, FetchFailed, MissingInput
from dermatome.inference.torch_setup import import_smp
from dermatome.registry.published import fetch, keep_program, published, read_file, trusted_program
from dermatome.skin.tissue.network import TissueCard, load_tissue_weights
from dermatome.storage.files import sha256_bytes
from dermatome.training.encoders import ENCODERS
from dermatome.training.trainer import check_same_network
from dermatome.training.weights_import import import_weights
from pipelines_tests.faulty_hpa_server import Fault, FaultyHpaServer

SKIN_SEG, INSTANSEG = published()["skin_seg_b3_10x"], published()["instanseg_brightfield_nuclei"]
HOSTS = ("127.0.0.1",)


def models(*arguments, exit_code=0):
    done = CliRunner().invoke(app, ["models", *map(str, arguments)])
    assert done.exit_code == exit_code, done.output
    return done


def state_dict(path, classes=12):
    """A U-Net of 12 classes as skin_seg's training script saves it, with a small encoder."""
    torch.manual_seed(0)
    theirs = import_smp().Unet("resnet18", encoder_weights=None, classes=classes).eval()
    torch.save(theirs.state_dict(), path)
    return theirs


def program():
    """The bytes of a TorchScript file."""

    class Nothing(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, :1] * 0

    file = io.BytesIO()
    torch.jit.save(torch.jit.script(Nothing()), file)
    return file.getvalue()


def zipped(**files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"brightfield_nuclei/{name.replace('_', '.')}", data)
    return file.getvalue()


def test_the_list_states_licence_scale_and_classes_of_ours():
    shown = models("list").output
    for entry in json.loads(models("list", "--json").output):
        assert {entry["name"], entry["licence"], entry["citation"]} <= set(map(str.strip, shown.splitlines()))
        assert entry["licence_source"].startswith("https://")
        assert entry["form"] != "state_dict" or entry["encoder"] in ENCODERS
        assert entry["kind"] != "tissue" or set(entry["classes"]) == set(TISSUE_LABELS)
    assert set(published()) == {"cyto2", "instanseg_brightfield_nuclei", "skin_seg_b3_10x", "skin_seg_b7_10x",
                                "source_monusac"}  # fmt: skip


def test_twelve_classes_become_four_whose_probabilities_are_their_sums(tmp_path):
    theirs = state_dict(tmp_path / "theirs.pt")
    with FaultyHpaServer(images={"/b3.pt": (tmp_path / "theirs.pt").read_bytes()}) as server:
        entry = replace(SKIN_SEG, url=f"{server.url}/b3.pt", encoder="resnet18")
        said = []
        taken = fetch(entry, tmp_path, hosts=HOSTS, log=said.append)
    assert "MIT" in said[0]
    assert taken.sha256 == sha256_bytes(taken.data)
    assert not list(tmp_path.glob("*.download"))
    out = tmp_path / "w.safetensors"
    import_weights(
        TissueCard, tmp_path / "theirs.pt", out, data=taken.data, encoder="resnet18", mpp=1.0, classes=entry.classes,
        licence=entry.licence, name=entry.name,
    )  # fmt: skip
    loaded = load_tissue_weights(out)
    assert (loaded.card.name, loaded.card.channels) == (entry.name, entry.classes)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        probabilities, ours = theirs(image)[0].softmax(0), loaded.network(image)[0].softmax(0)
    for number, label in enumerate(TISSUE_LABELS):
        own = [channel for channel, name in enumerate(entry.classes) if name == label]
        torch.testing.assert_close(ours[number], probabilities[own].sum(0))
    with pytest.raises(BadWeights, match="12 output channels, several for a class, and cannot be fine-tuned"):
        check_same_network(loaded, TissueCard)


def test_a_file_of_other_classes_or_an_impossible_card_is_refused(tmp_path):
    state_dict(tmp_path / "four.pt", classes=4)

    def refused(says, classes):
        with pytest.raises((BadWeights, BadSetting), match=says):
            import_weights(TissueCard, tmp_path / "four.pt", tmp_path / "w", encoder="resnet18", mpp=1, classes=classes)

    refused("has 4 output channels, but this network has 12", SKIN_SEG.classes)
    refused("or one of them for each of more channels", ("dermis",) * 12)
    refused("or one of them for each of more channels", (*SKIN_SEG.classes[:-1], "hair"))


def test_the_command_says_what_may_not_be_used_commercially_before_it_fetches(tmp_path):
    for name in ("cyto2", "source_monusac"):
        said = models("get", name, "--models", tmp_path, exit_code=1)
        assert "is not for commercial use" in str(said.exception)
    assert not list(tmp_path.iterdir())
    with pytest.raises(MissingInput, match="no public address: get its file from its authors"):
        fetch(published()["source_monusac"], tmp_path)


def test_the_command_takes_over_a_file_that_was_downloaded(tmp_path, monkeypatch):
    small = replace(SKIN_SEG, encoder="resnet18")
    monkeypatch.setattr("dermatome.registry.published.published", lambda: {small.name: small})
    state_dict(tmp_path / "b3.pt")
    done = models("import", tmp_path / "b3.pt", "--as", small.name, "--models", tmp_path / "m")
    out = tmp_path / "m" / f"{small.name}.safetensors"
    assert str(out) in done.output
    assert "Not imported" in done.output
    card = load_tissue_weights(out).card
    assert card.licence == small.licence
    assert sha256_bytes((tmp_path / "b3.pt").read_bytes()) in card.initial_weights
    mask = tmp_path / "image.png"
    import cv2

    cv2.imwrite(str(mask), np.full((80, 90, 3), 230, np.uint8))
    arguments = ["tissue", "predict", str(mask), "--weights", str(out), "--out", str(tmp_path / "o"), "--mpp", "1"]
    arguments += ["--backend", "torch"]
    done = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "o" / "image.json").read_text())["values"]["weights_licence"] == small.licence


def test_a_program_is_only_taken_if_it_is_trusted_and_only_that_one_is_loaded(tmp_path):
    data = program()
    with FaultyHpaServer(images={"/nuclei.zip": zipped(instanseg_pt=data, rdf_yaml=b"name: x")}) as server:
        entry = replace(INSTANSEG, url=f"{server.url}/nuclei.zip")
        with pytest.raises(BadSetting, match="a program that runs on your machine.*--trust"):
            fetch(entry, tmp_path, hosts=HOSTS)
        assert not server.requests
        taken = fetch(entry, tmp_path, hosts=HOSTS, trust=True)
        assert taken.data == data
        pinned = replace(entry, sha256=taken.sha256)
        assert fetch(pinned, tmp_path, hosts=HOSTS).sha256_is == "published"
        with pytest.raises(BadWeights, match="not the published 000000000000…"):
            fetch(replace(entry, sha256="0" * 64), tmp_path, hosts=HOSTS)
        server.faults["/nuclei.zip"] = Fault(body=zipped(other_pt=data))
        with pytest.raises(BadWeights, match=r"has no file instanseg\.pt"):
            fetch(entry, tmp_path, hosts=HOSTS, trust=True)
        whole = zipped(instanseg_pt=data)
        server.faults["/nuclei.zip"] = Fault(body=whole[:200] + bytes([whole[200] ^ 255]) + whole[201:])
        with pytest.raises(BadWeights, match="is a damaged zip .*: fetch it again"):
            fetch(entry, tmp_path, hosts=HOSTS, trust=True)
        with pytest.raises(FetchFailed, match="larger than the limit"):
            fetch(replace(entry, max_mb=0), tmp_path, hosts=HOSTS, trust=True)
    path = keep_program(entry, taken, tmp_path)
    assert trusted_program(path).licence == entry.licence
    path.write_bytes(data + b"\0")
    with pytest.raises(BadWeights, match="is not the file that was trusted"):
        trusted_program(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(BadWeights, match="without a readable card"):
        trusted_program(path)
    path.write_bytes(data)
    assert read_file(entry, path, trust=True).data == data
