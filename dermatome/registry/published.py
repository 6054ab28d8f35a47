"""Published networks: their source, licence and requirements, and how their files are fetched and checked.

The list is ``published.toml`` beside this module. A state dict is read without running code. A TorchScript file is a
program: it is accepted only if its sha256 is known or if the user trusts it, and from then on only that file is loaded.
"""

from __future__ import annotations

import json
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

from dermatome.errors import BadSetting, BadWeights, MissingInput
from dermatome.storage.files import ARCHIVE_ERRORS, sha256_bytes, sha256_file, write_atomic
from dermatome.storage.http import download

HOSTS = ("huggingface.co", ".hf.co", "github.com", ".githubusercontent.com", ".cellpose.org")


@dataclass(frozen=True)
class Published:
    """A published network.

    Attributes:
        kind: what it segments: tissue, cells or nuclei.
        form: format of its file: a state dict of segmentation-models-pytorch, TorchScript, or Cellpose's two files.
        url: address of the file; empty if it has none and must be imported from a file.
        mpp: microns per pixel that it was trained at; 0 if it scales images by the size of cells.
        max_mb: size limit of the file, MB; a larger one is refused.
        non_commercial: whether the licence, or that of the training images, forbids commercial use.
        sha256: sha256 of the file, if published.
        member: name of the file inside the zip at ``url``; empty if it is not a zip.
        classes: the class of each output channel.
    """

    name: str
    kind: Literal["tissue", "cells", "nuclei"]
    form: Literal["state_dict", "torchscript", "cellpose"]
    title: str
    url: str
    licence: str
    licence_source: str
    citation: str
    mpp: float
    max_mb: int
    non_commercial: bool = False
    sha256: str = ""
    member: str = ""
    encoder: str = ""
    tile_px: int = 256
    classes: tuple[str, ...] = ()

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Taken:
    """A file of a published network.

    Attributes:
        sha256: sha256 of the file, or of the zip that it was in.
        sha256_is: who states the sha256, as text.
    """

    data: bytes
    sha256: str
    sha256_is: str
    origin: str


def published() -> dict[str, Published]:
    """All published networks by name."""
    content = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return {entry.name: entry for entry in TypeAdapter(list[Published]).validate_python(content["network"])}


def published_named(name: str) -> Published:
    """The published network of that name.

    Raises:
        BadSetting: there is none.
    """
    found = published()
    if name not in found:
        raise BadSetting(f"There is no published network {name!r}: use one of {', '.join(found)}.")
    return found[name]


def fetch(
    entry: Published,
    folder: Path,
    *,
    trust: bool = False,
    hosts: Sequence[str] = HOSTS,
    log: Callable[[str], None] = lambda _: None,
) -> Taken:
    """Downloads the file of a published network.

    Args:
        entry: the network.
        folder: folder for the download, which is deleted once it is read.
        trust: whether to accept a program without a published sha256.
        hosts: hosts that may be contacted.
        log: called with a sentence before anything is fetched.

    Raises:
        MissingInput: the network has no address.
        BadSetting: it is a program whose sha256 is unknown and which is not trusted.
        FetchFailed: it could not be fetched, or is not the file that its host states.
        BadWeights: its sha256 is not the published one, or the zip lacks the network.
    """
    if not entry.url:
        raise MissingInput(
            f"{entry.name} has no public address: get its file from its authors, and import it with `dermatome "
            f"models import FILE --as {entry.name}`."
        )
    _check_trust(entry, trust)
    log(f"{entry.title}: {entry.licence} ({entry.licence_source}). Fetching {entry.url}")
    path = folder / f"{entry.name}.download"
    by_hand = f"download it elsewhere, and import it with `dermatome models import FILE --as {entry.name}`"
    try:
        got = download(entry.url, path, hosts=hosts, max_bytes=entry.max_mb << 20, by_hand=by_hand)
        how = "stated by the host" if got.sha256_stated else "recorded when it was fetched: the host states none"
        return _taken(entry, path, got.sha256, how, entry.url)
    finally:
        path.unlink(missing_ok=True)


def read_file(entry: Published, file: Path, *, trust: bool = False) -> Taken:
    """Reads the file of a published network that was downloaded by hand.

    Raises:
        BadSetting: it is a program whose sha256 is unknown and which is not trusted.
        BadWeights: it cannot be read, its sha256 is not the published one, or the zip lacks the network.
    """
    _check_trust(entry, trust)
    if not file.is_file():
        raise BadWeights(f"There is no file {file}: check the path.")
    if file.stat().st_size > entry.max_mb << 20:
        raise BadWeights(f"{file} is larger than the {entry.max_mb} MB allowed for {entry.name}: use its own file.")
    return _taken(entry, file, sha256_file(file), "recorded when it was imported", str(file))


def keep_program(entry: Published, taken: Taken, folder: Path) -> Path:
    """Writes a TorchScript file and, beside it, its card with the sha256 of the only file that may be loaded."""
    path = folder / f"{entry.name}.pt"
    write_atomic(path, taken.data)
    card = asdict(entry) | {
        "sha256": sha256_bytes(taken.data),
        "origin": taken.origin,
        "origin_sha256": taken.sha256,
        "origin_sha256_is": taken.sha256_is,
    }
    write_atomic(path.with_suffix(".json"), json.dumps(card, indent=2, ensure_ascii=False).encode() + b"\n")
    return path


def trusted_program(path: Path) -> Published:
    """The card of a TorchScript file, after checking that the file is the trusted one.

    Raises:
        BadWeights: the file or its card is missing or damaged, or the file is not the trusted one.
    """
    remedy = "get it with `dermatome models get NAME` or `dermatome models import FILE --as NAME`"
    if not path.is_file():
        raise BadWeights(f"There is no network at {path}: {remedy}.")
    try:
        card = json.loads(path.with_suffix(".json").read_bytes())
        known = {name: value for name, value in card.items() if not name.startswith("origin")}
        entry = TypeAdapter(Published).validate_python(known)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BadWeights(f"{path} is a program without a readable card that states its source: {remedy}.") from error
    if sha256_file(path) != entry.sha256:
        raise BadWeights(f"{path} is not the file that was trusted (its sha256 differs from its card's): {remedy}.")
    return entry


def _check_trust(entry: Published, trust: bool) -> None:
    if entry.form == "torchscript" and not entry.sha256 and not trust:
        raise BadSetting(
            f"{entry.name} is a TorchScript file, a program that runs on your machine, and no sha256 of it is "
            "published: give --trust if you trust its authors and the way it reached you."
        )


def _taken(entry: Published, path: Path, sha256: str, how: str, origin: str) -> Taken:
    if entry.sha256 and sha256 != entry.sha256:
        raise BadWeights(
            f"{origin} has the sha256 {sha256[:12]}…, not the published {entry.sha256[:12]}…: it is not {entry.name}."
        )
    data = path.read_bytes()
    if entry.member and zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                found = [item for item in archive.infolist() if Path(item.filename).name == entry.member]
                # A TorchScript file is itself a zip, but has no member of that name.
                if len(found) == 1 and found[0].file_size <= entry.max_mb << 20:
                    data = archive.read(found[0])
                elif origin == entry.url or found:
                    raise BadWeights(
                        f"{origin} has no file {entry.member} of at most {entry.max_mb} MB: use another zip."
                    )
        except ARCHIVE_ERRORS as error:
            raise BadWeights(f"{origin} is a damaged zip ({error}): fetch it again.") from error
    return Taken(data, sha256, "published" if entry.sha256 else how, origin)
