"""Networks run as int8: quantised after training, compared with fp32, and stored in the data root.

NNCF quantises a network once (post-training quantisation; Jacob et al. 2018, "Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference"), with half of its tiles from some available slides. On the
other half it is compared with fp32; only if all checks pass does the network run as int8. Model and checks are stored,
so all runs give the same results, whichever slides come later.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.inference.backends import OpenVinoRunner, Outputs, Runner, Tag, import_openvino
from dermatome.storage.files import atomic_folder, write_atomic
from dermatome.storage.record import Check

Tiles = npt.NDArray[Any]
Show = Callable[[Runner], None]
"""Runs a network on one of the available slides, as its stage does."""
Judge = Callable[[Runner, Runner, Sequence[Tiles]], Sequence[Check]]
"""Compares a network in fp32 with its int8 form, on batches of tiles or on its own samples."""

LEAST_SAME = 0.995
"""Minimum share of pixels that must keep their class."""
TILES_OF_A_SLIDE = 16
_BATCH = 4
_LEAST_TILES = 8
_MODEL, _ABOUT = "model.xml", "about.json"

_log = logging.getLogger(__name__)


def int8_runner(runner: Runner, folder: Path, slides: Iterable[Show], judge: Judge) -> Runner:
    """The int8 form of a network if it passes its checks, else ``runner``; quantised at the first call, then read.

    Args:
        runner: the network.
        folder: folder of its int8 form: the model, and ``about.json`` with the checks. Delete it to quantise again.
        slides: functions that run a network on one slide each; up to 16 tiles of each slide are used.
        judge: returns the checks.
    """
    if not isinstance(runner, OpenVinoRunner):  # OpenVINO does not agree with torch for this network
        return runner
    if not (folder / _ABOUT).is_file():
        tiles = _tiles_of(runner, slides)
        if sum(map(len, tiles)) < _LEAST_TILES:
            _log.warning("The available slides have too little tissue to quantise %s: it runs as %s.", folder.name,
                         runner.precision)  # fmt: skip
            return runner
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as new:
            if not (folder / _ABOUT).is_file():  # another process may have quantised the network meanwhile
                _make(runner, new, tiles, judge)
    about = json.loads((folder / _ABOUT).read_bytes())
    failed = [check["description"] for check in about["checks"] if not check["passed"]]
    if failed:
        _log.warning("%s runs as %s, not as int8: %s", folder.name, runner.precision, " ".join(failed))
        return runner
    model = import_openvino().Core().read_model(folder / _MODEL)
    return OpenVinoRunner(model, runner.compute, "int8")


def same_class(heads: Sequence[int]) -> Judge:
    """A judge that checks that nearly all pixels keep their most probable class.

    ``heads`` is the number of channels of each head, in order.
    """
    edges = np.cumsum(heads)[:-1]

    def judge(fp32: Runner, int8: Runner, tiles: Sequence[Tiles]) -> list[Check]:
        same, pixels = 0, 0
        for batch in tiles:
            pairs = (np.split(runner.run(batch)[0], edges, axis=1) for runner in (fp32, int8))
            for one, other in zip(*pairs, strict=True):
                same += int(np.count_nonzero(one.argmax(axis=1) == other.argmax(axis=1)))
                pixels += one[:, 0].size
        share = same / pixels
        text = f"{share:.2%} of the pixels have the class of fp32 (at least {LEAST_SAME:.1%})."
        return [Check("same_class", share >= LEAST_SAME, text, {"share": share})]

    return judge


class _Enough(Exception):
    """Enough tiles of a slide were collected."""


class _Watched(Runner):
    """A runner that collects the tiles it is given, and stops after a number of them."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self.backend, self.precision = runner, runner.backend, runner.precision
        self.tiles: list[Tiles] = []
        self._left = TILES_OF_A_SLIDE

    def stream(self, batches: Iterable[tuple[Tag, Tiles]]) -> Iterator[tuple[Tag, Outputs]]:
        """See :class:`dermatome.inference.backends.Runner`."""

        def seen() -> Iterator[tuple[Tag, Tiles]]:
            for tag, batch in batches:
                if self._left <= 0:
                    raise _Enough
                self.tiles.extend(np.array(batch[: self._left]))
                self._left -= len(batch)
                yield tag, batch

        return self._runner.stream(seen())


def _tiles_of(runner: Runner, slides: Iterable[Show]) -> list[Tiles]:
    """Batches of the tiles that the network gets for some slides; a batch has tiles of one size."""
    by_size: dict[tuple[int, ...], list[Tiles]] = {}
    for show in slides:
        watched = _Watched(runner)
        with suppress(_Enough):
            show(watched)
        for tile in watched.tiles:
            by_size.setdefault(tile.shape, []).append(tile)
    return [np.stack(same[k : k + _BATCH]) for same in by_size.values() for k in range(0, len(same), _BATCH)]


def _make(runner: OpenVinoRunner, folder: Path, tiles: list[Tiles], judge: Judge) -> None:
    import_openvino()  # before NNCF, which could otherwise send usage data
    from openvino import save_model
    from openvino._offline_transformations import apply_moc_transformations

    nncf, plain = _import_nncf(), runner.model.clone()
    # Normalisation becomes a factor and an offset, or part of a convolution: only then are biases corrected after it.
    apply_moc_transformations(plain, cf=False)
    _log.info("Quantising %s with %d tiles", folder.name, sum(map(len, tiles)))
    model = nncf.quantize(
        plain,
        nncf.Dataset(tiles[::2]),
        preset=nncf.QuantizationPreset.MIXED,  # activations are symmetric only after ReLU
        subset_size=len(tiles[::2]),
        ignored_scope=nncf.IgnoredScope(names=_first_layers(plain)),
    )
    save_model(model, folder / _MODEL, compress_to_fp16=False)
    exact = OpenVinoRunner(runner.model, replace(runner.compute, precision="fp32"))
    checks = judge(exact, OpenVinoRunner(model, runner.compute, "int8"), tiles[1::2])
    about = {"checks": [asdict(check) for check in checks], "tiles": sum(map(len, tiles))}
    write_atomic(folder / _ABOUT, json.dumps(about, indent=2).encode())


def _import_nncf() -> Any:
    logger = logging.getLoggerClass()
    import nncf

    logging.setLoggerClass(logger)  # NNCF sets its own class for all later loggers
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf


def _first_layers(model: Any) -> list[str]:
    """Names of the convolutions whose input is the image.

    They cost little time and lose most accuracy in int8. Those with two input channels, as in Cellpose's networks, are
    computed incorrectly in int8 by OpenVINO 2026.4.
    """
    convolutions = (node for node in model.get_ops() if node.get_type_name() == "Convolution")
    return [node.get_friendly_name() for node in convolutions if node.input(1).get_partial_shape()[1].get_length() < 4]
