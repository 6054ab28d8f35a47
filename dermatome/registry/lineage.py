"""Where a training version comes from: the weights it goes on from, and what those had learnt."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from dermatome.errors import BadSetting, BadWeights, MissingInput
from dermatome.registry.manifest import ManifestRow, Side, known_sides, manifest_path, read_manifest
from dermatome.registry.model_kinds import TISSUE, ModelKind
from dermatome.storage.layout import WEIGHTS_FILE, DataRoot
from dermatome.storage.record import require_record
from dermatome.training.weights import LoadedWeights, load_weights

_CONTINUED = re.compile(r"(.+)_cont[1-9][0-9]*")


class Loaded(Protocol):
    """Weights as they were read: :class:`LoadedWeights` or :class:`dermatome.skin.cells.network.LoadedCells`."""

    @property
    def sha256(self) -> str: ...  # noqa: D102

    @property
    def card(self) -> Any: ...  # noqa: D102

    @property
    def decided(self) -> dict[str, Any]:
        """The training settings that a network which goes on from it shares."""
        ...


W = TypeVar("W", bound=Loaded, covariant=True)


@dataclass(frozen=True)
class Lineage(Generic[W]):
    """The weights a version goes on from.

    Attributes:
        name: the parent version, or the path of the file.
        weights: its network and card.
        ancestors: manifests of the parent, its parent and so on, by version.
        all_known: whether the manifest of every ancestor is known.
    """

    name: str
    weights: W
    ancestors: Mapping[str, list[ManifestRow]] = field(default_factory=dict)
    all_known: bool = True

    def sides(self) -> dict[str, Side]:
        """The side each group of tiles must stay on: what any ancestor learnt from cannot test its descendants."""
        found: dict[str, Side] = {}
        for rows in self.ancestors.values():
            for group, side in known_sides(rows).items():
                found[group] = "train" if found.get(group) == "train" else side
        return found

    def fill_in(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Training settings: those given, and of the others the ones that the parent's network decides."""
        return self.weights.decided | dict(given)


def parent_name(version: str, continue_from: str | None) -> str | None:
    """What a version goes on from: what was given, or by its name: ``v001_cont1`` goes on from ``v001``.

    Raises:
        BadSetting: it would go on from itself.
    """
    if continue_from == version:
        raise BadSetting(f"The version {version} cannot go on from itself: name the new one {version}_cont1.")
    named = _CONTINUED.fullmatch(version)
    return continue_from or (named[1] if named else None)


def open_lineage(root: DataRoot, version: str, continue_from: str | None = None) -> Lineage[LoadedWeights] | None:
    """The weights that a tissue network's ``version`` goes on from; ``None`` where it starts from scratch.

    Args:
        root: the data root.
        version: the one to be trained.
        continue_from: a version, or the path of a weights file.

    Raises:
        BadSetting: it would go on from itself.
        MissingInput: there is no such version or file.
        BadWeights: the file is damaged or does not fit.
    """
    name = parent_name(version, continue_from)
    return None if name is None else find_lineage(root, version, name, TISSUE, load_weights)


def find_lineage(root: DataRoot, version: str, name: str, kind: ModelKind, load: Callable[[Path], W]) -> Lineage[W]:
    """The weights called ``name``, a trained version or the path of a file, that ``version`` goes on from.

    Args:
        root: the data root.
        version: the one to be trained.
        name: what :func:`parent_name` gave.
        kind: of network.
        load: reads its weights.

    Raises:
        MissingInput: there is no such version or file.
        BadWeights: the file is damaged or does not fit.
    """
    versions = root.partitions(kind.weights)
    if name not in versions:
        if not Path(name).is_file():
            raise MissingInput(
                f"{version} is to go on from {name!r}, which is no trained version ({', '.join(versions) or 'none'} "
                "so far) and no file: correct continue_from, or the version's name."
            )
        return lineage_of_file(Path(name), load)
    folder = root.folder(kind.weights, name)
    weights = load(folder / WEIGHTS_FILE)
    trained = require_record(root, kind.weights, name).values["weights_sha256"]
    if weights.sha256 != trained:
        raise BadWeights(f"The weights of {name} are not those it was trained to: materialize it again.")
    return Lineage(name, weights, *_ancestors(root, name, kind))


def lineage_of_file(path: Path, load: Callable[[Path], W]) -> Lineage[W]:
    """The weights at ``path``; what they learnt is known where their manifest lies beside them and they have no parent.

    Raises:
        BadWeights: there is no such file, or it is damaged or does not fit.
    """
    weights, manifest = load(path), manifest_path(path)
    ancestors = {path.stem: read_manifest(manifest)} if manifest.is_file() else {}
    return Lineage(str(path), weights, ancestors, bool(ancestors) and weights.card.parent is None)


def _ancestors(root: DataRoot, name: str, kind: ModelKind) -> tuple[dict[str, list[ManifestRow]], bool]:
    found: dict[str, list[ManifestRow]] = {}
    all_known = True
    versions = set(root.partitions(kind.weights))
    while name in versions and name not in found:
        folder = root.folder(kind.weights, name)
        manifest = manifest_path(folder / WEIGHTS_FILE)
        found[name] = read_manifest(manifest) if manifest.is_file() else []
        all_known &= manifest.is_file()
        parent = require_record(root, kind.weights, name).values.get("parent")
        if parent is None:
            return found, all_known
        name = str(parent)
    # Its oldest ancestor is a file, of which the version's record has kept the name only.
    return found, False
