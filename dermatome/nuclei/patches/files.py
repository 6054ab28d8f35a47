"""Training patches of nuclei on disk: PNG files with a manifest.

Below a folder: ``rgb/<patch>.png``, ``semantic/``, ``ternary/`` and ``instances/`` (grey; 255 in the first two is
ignored, and a nucleus has the same number in all patches of its image) and the manifest ``patches.parquet``.
:mod:`dermatome.nuclei.patches.cut` cuts them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dermatome.classes import RgbImage
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.geometry import Box
from dermatome.imaging.stain_normalisation import AS_IT_IS
from dermatome.registry.manifest import ManifestRow, manifest_row
from dermatome.storage.files import safe_id, sha256_bytes, write_atomic
from dermatome.training.data import Side

MANIFEST_FILE = "patches.parquet"


@dataclass(frozen=True)
class Patch:
    """A patch: one row of the manifest, and the folder from which its files are read on demand.

    Attributes:
        folder: folder of the manifest.
        name: ``<image>_<top>_<left>``.
        case: the patient; all patches of one are on the same side of a split.
        kind: kind of annotation (:attr:`~dermatome.nuclei.patches.annotated.AnnotatedImage.kind`).
        top_px: top edge of the patch on its image, px.
        height_px: height of the part that is image, px; pixels beyond it are mirrored and ignored.
        mpp_source: ``file`` or ``declared``.
        semantic_px: number of pixels of each :class:`~dermatome.classes.NucleusClass`, without ignored ones.
        ignored_px: number of pixels that are ignored in the ternary map.
        stain: outcome for its image: ``as it is``, or the :class:`StainOutcome` if normalisation was requested.
        sha256: sha256 over its pixels and maps.
        side: ``train`` or ``validation`` if a split was requested, else empty.
        left_out: annotated objects of the image that are on no patch, as they have no area or are to be ignored.
    """

    folder: Path
    name: str
    case: str
    image: str
    kind: str
    top_px: int
    left_px: int
    height_px: int
    width_px: int
    mpp: float
    mpp_source: str
    nuclei: int
    semantic_px: tuple[int, ...]
    ternary_px: tuple[int, ...]
    ignored_px: int
    stain: str
    sha256: str
    side: str = ""
    left_out: str = ""

    @property
    def group(self) -> str:
        """The patient, whose patches are all on one side of a split."""
        return self.case

    place = patient = group

    @property
    def slide(self) -> str:
        """The annotated image that it was cut from, and of whom."""
        return f"{self.case}/{self.image}"

    @property
    def normalised(self) -> bool:
        """Whether its image was to be brought to one stain."""
        return self.stain != AS_IT_IS

    @property
    def box(self) -> Box:
        """Where it lies on its image, what is beyond left out."""
        return Box(self.top_px, self.left_px, self.top_px + self.height_px, self.left_px + self.width_px)

    def class_pixels(self) -> npt.NDArray[np.int64]:
        """(5,) pixels of each class."""
        return np.array(self.semantic_px, np.int64)

    def read(self) -> tuple[RgbImage, npt.NDArray[np.uint8]]:
        """(H, W, 3) uint8 RGB, and (H, W, 2) uint8: its semantic and its ternary map.

        Raises:
            MissingInput: a file is missing.
            BadAnnotation: a file is damaged.
        """
        maps = [self._grey(name).astype(np.uint8) for name in ("semantic", "ternary")]
        return self._image("rgb", "RGB"), np.stack(maps, axis=-1)

    def instances(self) -> npt.NDArray[np.int32]:
        """(H, W) int32: 0, or the number of the nucleus on its image.

        Raises:
            MissingInput: the file is missing.
            BadAnnotation: it is damaged.
        """
        return self._grey("instances").astype(np.int32)

    def _grey(self, kind: str) -> npt.NDArray[Any]:
        return self._image(kind, "I;16" if kind == "instances" else "L")

    def _image(self, kind: str, mode: str) -> npt.NDArray[Any]:
        path = self.folder / kind / f"{self.name}.png"
        try:
            with Image.open(path, formats=("PNG",)) as image:
                if image.mode != mode or max(image.size) > 4096:
                    raise ValueError(f"it is {image.size} of type {image.mode}")
                return np.array(image)
        except FileNotFoundError as error:
            raise MissingInput(f"There is no {path}: cut the patches of {self.case} again.") from error
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise BadAnnotation(f"{path} is damaged ({error}): cut the patches of {self.case} again.") from error


def write_manifest(folder: Path, patches: Sequence[Patch]) -> None:
    """Writes ``patches.parquet``; the same patches give the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(patch) for patch in patches], _SCHEMA), buffer, compression="zstd")
    write_atomic(folder / MANIFEST_FILE, buffer.getvalue())


def load_patches(*folders: Path) -> list[Patch]:
    """The patches of folders, by name.

    Raises:
        MissingInput: a folder has no manifest, or there is no patch at all.
        BadAnnotation: a manifest is damaged, or two patches have one name.
    """
    patches: list[Patch] = []
    for folder in folders:
        path = folder / MANIFEST_FILE
        try:
            rows = pq.read_table(io.BytesIO(path.read_bytes())).select(_SCHEMA.names).cast(_SCHEMA).to_pylist()
        except FileNotFoundError as error:
            raise MissingInput(f"There is no {path}: cut patches there with 'dermatome nuclei patches'.") from error
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise BadAnnotation(f"{path} is not a manifest of patches ({error}): cut them again.") from error
        for row in rows:
            row |= {key: tuple(row[key]) for key in ("semantic_px", "ternary_px")}
            safe_id(row["name"], "The patch")
            patches.append(Patch(folder, **row))
    if not patches:
        raise MissingInput(f"There are no patches in {', '.join(map(str, folders))}: cut some of annotated images.")
    patches.sort(key=lambda patch: patch.name)
    for one, other in pairwise(patches):
        if one.name == other.name:
            raise BadAnnotation(
                f"{one.folder} and {other.folder} both have the patch {one.name}: leave one folder out."
            )
    return patches


def patch_manifest_rows(patches: Iterable[Patch], side: Side) -> list[ManifestRow]:
    """The manifest rows of patches, by name; raises the errors of :meth:`Patch.read`."""
    rows = []
    for patch in sorted(patches, key=lambda patch: patch.name):
        rgb, maps = patch.read()
        image_sha256, mask_sha256 = sha256_bytes(rgb.tobytes()), sha256_bytes(maps.tobytes())
        rows.append(manifest_row(patch, side, rgb, image_sha256, mask_sha256, patch.semantic_px))
    return rows


def patches_sha256(patches: Sequence[Patch]) -> str:
    """One sha256 over names and content, whatever the order."""
    return sha256_bytes("".join(sorted(f"{patch.name} {patch.case} {patch.sha256}\n" for patch in patches)).encode())


_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("name", "case", "image", "kind")),
        *((name, pa.int32()) for name in ("top_px", "left_px", "height_px", "width_px")),
        ("mpp", pa.float64()),
        ("mpp_source", pa.string()),
        ("nuclei", pa.int32()),
        ("semantic_px", pa.list_(pa.int64())),
        ("ternary_px", pa.list_(pa.int64())),
        ("ignored_px", pa.int64()),
        ("stain", pa.string()),
        ("sha256", pa.string()),
        ("side", pa.string()),
        ("left_out", pa.string()),
    ]
)
