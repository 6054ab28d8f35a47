"""Training from folders of tiles to a weights file, its card and the manifest of its tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.registry.manifest import licences, manifest_path, write_manifest
from dermatome.skin.tiles.crops import TilePair, load_tiles, manifest_rows
from dermatome.skin.tissue.train import EpochReport, TrainResult, train
from dermatome.training.data import Side, Split, split_tiles
from dermatome.training.weights import save_weights

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.training.settings import TrainSettings
    from dermatome.training.weights import LoadedWeights


def train_file(
    folders: Sequence[Path],
    out: Path,
    settings: TrainSettings,
    compute: Compute,
    *,
    validation_folders: Sequence[Path] = (),
    checkpoint_dir: Path | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    parent: LoadedWeights | None = None,
    known_sides: Mapping[str, Side] | None = None,
    processes: int = 1,
    models_folder: Path | None = None,
) -> tuple[TrainResult, str]:
    """Trains on the tiles in ``folders`` and writes the weights to ``out``, with card and manifest beside them.

    Where no ``validation_folders`` are given, a share of the tiles is held out (see
    :func:`dermatome.training.data.split_tiles`).

    Args:
        folders: of the tiles.
        out: the weights file.
        settings: of the training.
        compute: device and precision.
        validation_folders: tiles to validate on.
        checkpoint_dir: see :func:`dermatome.skin.tissue.train.train`.
        on_epoch: called after each epoch.
        parent: weights to go on from.
        known_sides: side of each group of tiles that the parent knows; a tile it learned from must not test its child.
        processes: see :func:`dermatome.skin.tissue.train.train`.
        models_folder: likewise.

    Returns:
        The result, its card as it was written, and the sha256 of the weights file.

    Raises:
        MissingInput: a folder or file of the tiles is missing.
        BadSetting: see :func:`dermatome.skin.tissue.train.train`.
        BadWeights: the parent does not fit.
        FetchFailed: the encoder's ready weights are not there and could not be fetched.
        BadAnnotation: a palette or mask does not fit.
        BadImage: a tile cannot be read.
        StorageFailed: ``out`` or a checkpoint cannot be written.
    """
    split = choose_tiles(folders, validation_folders, settings, known_sides)
    result = train(
        split.train,
        split.validation,
        settings,
        compute,
        checkpoint_dir,
        on_epoch,
        validation=split.how,
        parent=parent,
        processes=processes,
        models_folder=models_folder,
    )
    rows = manifest_rows(split.train, "train") + manifest_rows(split.validation, "validation")
    manifest_sha256 = write_manifest(manifest_path(out), rows)
    result = replace(result, card=replace(result.card, manifest_sha256=manifest_sha256, licence=licences(rows)))
    return result, save_weights(out, result.state, result.card)


def choose_tiles(
    folders: Sequence[Path],
    validation_folders: Sequence[Path],
    settings: TrainSettings,
    known_sides: Mapping[str, Side] | None = None,
) -> Split[TilePair]:
    """The tiles to train and to validate on; arguments and errors as for :func:`train_file`."""
    tiles = load_tiles(*folders)
    if validation_folders:
        return Split(tuple(tiles), tuple(load_tiles(*validation_folders)), "tiles were given for it")
    share = settings.validation_share if len(tiles) > 1 else 0.0
    return split_tiles(tiles, share, settings.seed, known_sides)
