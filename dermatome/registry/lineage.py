"""The lineage of a training version: the weights it is fine-tuned from, and their training samples."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dermatome.errors import BadSetting
from dermatome.registry.manifest import ManifestRow, known_sides, manifest_path, read_manifest
from dermatome.registry.model_kinds import ModelKind
from dermatome.storage.layout import WEIGHTS_FILE, DataRoot
from dermatome.storage.record import require_record
from dermatome.training.data import Side
from dermatome.training.weights import LoadedWeights

_CONTINUED = re.compile(r"(.+)_cont[1-9][0-9]*")


@dataclass(frozen=True)
class Lineage:
    """The weights a version is fine-tuned from.

    Attributes:
        name: the parent version, or the path of the weights file.
        ancestors: manifests of the parent, of its parent and so on, by version.
    """

    name: str
    weights: LoadedWeights[Any]
    ancestors: Mapping[str, list[ManifestRow]] = field(default_factory=dict)
    all_known: bool = True

    def sides(self) -> dict[str, Side]:
        """The side that each group must stay on: a sample an ancestor was trained on cannot test its descendants."""
        found: dict[str, Side] = {}
        for rows in self.ancestors.values():
            for group, side in known_sides(rows).items():
                found[group] = "train" if found.get(group) == "train" else side
        return found

    def fill_in(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Completes ``given`` training settings with those that the parent's network determines."""
        return {**self.weights.card.inherited_settings(), **given}


def parent_name(version: str, continue_from: str | None) -> str | None:
    """The parent of a version: ``continue_from``, or the one in its name (``v001`` for ``v001_cont1``).

    Raises:
        BadSetting: the version would be its own parent.
    """
    if continue_from == version:
        raise BadSetting(f"The version {version} cannot be fine-tuned from itself: name the new one {version}_cont1.")
    named = _CONTINUED.fullmatch(version)
    return continue_from or (named[1] if named else None)


def lineage_of_file(path: Path, load: Callable[[Path], LoadedWeights[Any]]) -> Lineage:
    """The lineage of a weights file. Its training data is known if a manifest lies beside it and it has no parent.

    Raises:
        BadWeights: there is no such file, or it is damaged or does not fit.
    """
    weights, manifest = load(path), manifest_path(path)
    ancestors = {path.stem: read_manifest(manifest)} if manifest.is_file() else {}
    return Lineage(str(path), weights, ancestors, bool(ancestors) and weights.card.parent is None)


def ancestors_of(root: DataRoot, kind: ModelKind, version: str) -> tuple[dict[str, list[ManifestRow]], bool]:
    """The manifests of a version, its parent and so on, by version; and whether all of them are known."""
    found: dict[str, list[ManifestRow]] = {}
    all_known = True
    versions = set(root.partitions(kind.weights))
    while version in versions and version not in found:
        manifest = manifest_path(root.folder(kind.weights, version) / WEIGHTS_FILE)
        found[version] = read_manifest(manifest) if manifest.is_file() else []
        all_known &= manifest.is_file()
        parent = require_record(root, kind.weights, version).values.get("parent")
        if parent is None:
            return found, all_known
        version = str(parent)
    # The oldest ancestor is a file. The record has only its name.
    return found, False
