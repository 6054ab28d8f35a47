"""Peak memory of the mask stage, file to file, on slides of up to 60,000 px a side, each in a process of its own."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dermatome.inference.compute import ComputeSettings, choose_compute
from dermatome.skin.tissue.settings import TissueSettings
from dermatome.storage.layout import WEIGHTS_FILE, DataRoot
from pipelines_tests.benchmarks.rows import Row, below, benchmark

SIDES_PX = (3_000, 10_000, 30_000, 60_000)
LIMIT_GB = 4.0
_TILE_PX = 512
_PATTERN_PX = 4096


@benchmark("memory", timeout_s=3600, order=80)
def memory(toy: bool) -> Iterator[Row]:
    """Peak resident memory at each size, and what it is per pixel beyond the smallest."""
    for side in (1_000,) if toy else SIDES_PX:
        one = main(side)
        yield below(
            f"peak resident memory, epidermis mask of {one['side_px']:,}² px, file to file",
            one["peak_gb"],
            "GB",
            at_most=LIMIT_GB,
            bare=f"{one['start_gb']:.2f} GB once the network is ready",
            note=f"synthetic tiled JPEG TIFF of {one['file_mb']:.0f} MB; {one['seconds']:.0f} s, {one['tiles']} tiles "
            f"through the network ({one['backend']})",
        )


def main(side_px: int) -> dict[str, Any]:
    """Writes a synthetic slide of ``side_px`` a side and makes its mask in a process of its own.

    Returns:
        side_px, file_mb, seconds, tiles, backend, start_gb (torch imported and network ready), peak_gb.
    """
    folder = Path(tempfile.mkdtemp(prefix="dermatome-memory-"))
    try:
        _call("train", folder)
        _call("draw", folder, side_px)
        found: dict[str, Any] = json.loads(_call("mask", folder).splitlines()[-1])
    finally:
        shutil.rmtree(folder)
    return {"side_px": side_px, **found}


def _call(what: str, folder: Path, *more: object) -> str:
    command = [sys.executable, "-m", __name__, what, str(folder), *map(str, more)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def write_slide(path: Path, side_px: int) -> None:
    """A tiled JPEG TIFF of toy skin with glass between its pieces, repeated; written tile by tile."""
    import imagecodecs
    import tifffile

    from dermatome.synthetic.skin import toy_slide

    pattern = np.full((_PATTERN_PX, _PATTERN_PX, 3), 240, np.uint8)
    for seed, (top, left) in enumerate(((0, 0), (2048, 1024), (1024, 2560))):
        pattern[top : top + 1536, left : left + 1536] = toy_slide(seed, size_px=1536).slide.whole()
    count = _PATTERN_PX // _TILE_PX
    tiles = [
        [
            imagecodecs.jpeg8_encode(
                np.ascontiguousarray(pattern[y * _TILE_PX : (y + 1) * _TILE_PX, x * _TILE_PX : (x + 1) * _TILE_PX]),
                level=85,
            )
            for x in range(count)
        ]
        for y in range(count)
    ]
    across = -(-side_px // _TILE_PX)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(
            (tiles[row % count][column % count] for row in range(across) for column in range(across)),
            shape=(side_px, side_px, 3),
            dtype=np.uint8,
            tile=(_TILE_PX, _TILE_PX),
            photometric="ycbcr",
            subsampling=(2, 2),
            compression="jpeg",
            metadata=None,
        )


def _train(folder: Path) -> None:
    from pipelines_tests.toy_network import trained

    trained(folder / "training", choose_compute("cpu"))


def _mask(folder: Path) -> dict[str, Any]:

    from dermatome.registry.champion import Weights
    from dermatome.registry.model_kinds import TISSUE
    from dermatome.skin.tissue.stage import MaskStage
    from dermatome.slides.slide import read_slide
    from dermatome.storage.files import sha256_file

    root = DataRoot(folder / "root")
    weights = root.folder("tissue_weights", "toy") / WEIGHTS_FILE
    weights.parent.mkdir(parents=True)
    weights.write_bytes((folder / "training" / "weights.safetensors").read_bytes())
    champion = Weights(root, TISSUE, "toy", sha256_file(weights), "")
    stage = MaskStage(root, champion, ComputeSettings(), TissueSettings())
    stage.open(lambda: None)
    start_gb = _peak_gb()
    started = time.perf_counter()
    slide = read_slide(folder / "slide.tif", name="synthetic")
    (found,) = stage.compute([(slide, {})])
    out = folder / "out"
    out.mkdir()
    result = stage.save("synthetic", found, out)
    return {
        "seconds": time.perf_counter() - started,
        "phases": {name: round(value, 1) for name, value in result.seconds.items()},
        "tiles": result.values["tiles"],
        "epidermis_share": result.values["epidermis_share"],
        "backend": result.values["backend"],
        "file_mb": (folder / "slide.tif").stat().st_size / 1e6,
        "start_gb": start_gb,
        "peak_gb": _peak_gb(),
    }


def _peak_gb() -> float:
    """Highest resident memory of this process so far; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


if __name__ == "__main__":
    what, place = sys.argv[1], Path(sys.argv[2])
    if what == "train":
        _train(place)
    elif what == "draw":
        write_slide(place / "slide.tif", int(sys.argv[3]))
    else:
        print(json.dumps(_mask(place)))
