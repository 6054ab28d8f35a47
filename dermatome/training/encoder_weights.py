"""Pretrained weights of encoders: fetched with our own client, checked, kept in one folder, read without running code.

segmentation-models-pytorch names for each encoder a repository on Hugging Face and its commit. Its own download follows
any redirect, checks nothing and keeps the files elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.errors import BadSetting, BadWeights
from dermatome.inference.torch_setup import import_smp
from dermatome.storage.files import safe_id, sha256_bytes, sha256_file, write_atomic
from dermatome.storage.http import download

if TYPE_CHECKING:
    import torch


HUB = "https://huggingface.co"
HOSTS = ("huggingface.co", ".hf.co")
"""The hub, and where it keeps large files."""
MAX_BYTES = 2 * 1024**3
FOLDER = "encoders"


@dataclass(frozen=True)
class EncoderFile:
    """Pretrained weights of an encoder on disk; picklable, because every process that trains loads them.

    Attributes:
        path: of the safetensors file.
        sha256: of it.
        source: where it comes from, in words, for the weights card.
    """

    path: Path
    sha256: str
    source: str

    def state(self) -> dict[str, torch.Tensor]:
        """The encoder's tensors by name.

        Raises:
            BadWeights: the file is gone, not the one of :attr:`sha256`, or no safetensors file.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            data = self.path.read_bytes()
        except FileNotFoundError as error:
            raise BadWeights(f"{self.path} is gone: start the training again, which fetches it.") from error
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

    Beside it is a record with its sha256: the one that the hub states or, if it states none or the file was put there
    by hand, the one it had when it was first used. From then on the file must have it.

    Args:
        encoder: its name in segmentation-models-pytorch.
        weights: what it was trained on, such as ``imagenet``.
        models_folder: the files are in its folder ``encoders``.
        hub: the address of Hugging Face.
        hosts: that may be contacted.
        max_bytes: a larger file is refused.
        log: called with a sentence before it is fetched.

    Raises:
        BadSetting: there are no such weights of that encoder.
        FetchFailed: it could not be fetched; the message says how to go on without a network.
        BadWeights: the file was changed since it was first used.
    """
    repository, revision = _published(encoder, weights)
    path = models_folder / FOLDER / safe_id(f"{encoder}-{weights}.safetensors", "The encoder file")
    record_path = path.with_suffix(".json")
    url = f"{hub}/{repository}/resolve/{revision}/model.safetensors"
    record = _record(record_path)
    if not path.is_file():
        log(f"fetching {weights} weights of {encoder} from {url}")
        by_hand = f"download {url} on a machine that can and put it at {path}, or set encoder_weights to none"
        got = download(url, path, hosts=hosts, max_bytes=max_bytes, by_hand=by_hand)
        if record and record["sha256"] != got.sha256:
            path.unlink(missing_ok=True)
            raise BadWeights(
                f"{url} is not the file it was when it was first used (sha256 {got.sha256[:12]}…, not "
                f"{record['sha256'][:12]}…): delete {record_path} if you trust the new one."
            )
        how = "stated by the hub" if got.sha256_stated else "recorded when it was fetched: the hub stated none"
        record = {"source": f"{repository} at {revision}", "sha256": got.sha256, "sha256_is": how}
        _write(record_path, record)
    sha256 = sha256_file(path)
    if not record:
        record = {
            "source": f"put there by hand as {repository} at {revision}",
            "sha256": sha256,
            "sha256_is": "recorded when it was first used",
        }
        _write(record_path, record)
    if sha256 != record["sha256"]:
        raise BadWeights(_changed(path))
    return EncoderFile(path, sha256, f"{weights} ({record['source']}, sha256 {record['sha256_is']})")


def load_encoder(encoder: torch.nn.Module, file: EncoderFile) -> None:
    """Loads pretrained weights into an encoder of segmentation-models-pytorch.

    Raises:
        BadWeights: the file is not one of that encoder.
    """
    import torch

    state = file.state()
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise BadWeights(f"{file.path} holds numbers that are not finite: fetch it again.")
    try:
        encoder.load_state_dict(state)
    except (RuntimeError, KeyError, AttributeError) as error:
        raise BadWeights(
            f"{file.path} is not of this encoder ({str(error)[:200]}): delete it, and it is fetched again."
        ) from error


def _published(encoder: str, weights: str) -> tuple[str, str]:
    """The repository on the hub, and its commit."""
    known: Mapping[str, Any] = import_smp().encoders.encoders
    settings = known.get(encoder, {}).get("pretrained_settings", {})
    if weights not in settings:
        has = f"only {', '.join(sorted(settings))}" if settings else "none that this version knows of"
        raise BadSetting(
            f"The encoder {encoder!r} has no pretrained weights {weights!r}, {has}: choose another encoder, such as "
            "resnet34, or set encoder_weights to none."
        )
    return str(settings[weights]["repo_id"]), str(settings[weights]["revision"])


def _record(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_bytes())
        return {name: str(content[name]) for name in ("source", "sha256", "sha256_is")}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise BadWeights(f"{path} is damaged ({error!r}): delete it together with the file it belongs to.") from error


def _write(path: Path, record: Mapping[str, str]) -> None:
    write_atomic(path, json.dumps(record, indent=2).encode() + b"\n")


def _changed(path: Path) -> str:
    return f"{path} was changed since it was first used: delete it and its .json, and it is fetched again."
