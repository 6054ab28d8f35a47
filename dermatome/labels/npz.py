"""Tissue masks and instance maps as ``.npz`` files.

Equal arrays give equal bytes. Untrusted files are read in bounded memory and cannot run code. numpy can read and write
the same files.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import TissueClass
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.geometry import Box, Size
from dermatome.labels.tiled import TiledArray
from dermatome.slides.plain import MAX_SIDE_PX
from dermatome.storage.files import ARCHIVE_ERRORS, atomic_file

_npy: Any = np.lib.format
_LEVEL = 3
"""A third of the default's time, for half as much again."""
_MAX_HEADER_BYTES = 10_000  # numpy's own limit
_HEADER = re.compile(
    r"\{'descr': '(?P<type>[<>|=]?[a-zA-Z]\d{0,9})', 'fortran_order': (?P<order>True|False), "
    r"'shape': \((?P<shape>(?:\d+, ?)*\d*)\),? ?\}\s*"
)


def save_mask(path: Path, mask: TiledArray | npt.NDArray[np.uint8], crop: Box) -> Path:
    """Writes a tissue mask: ``mask`` (H, W) uint8 and ``crop_bbox`` [top, left, bottom, right], px.

    Raises:
        StorageFailed: the disk is full or the folder is not writable.
    """
    bbox = np.array([crop.top_px, crop.left_px, crop.bottom_px, crop.right_px], np.int64)
    return _save(path, {"mask": mask, "crop_bbox": bbox})


def load_mask(path: Path, *, size: Size | None = None) -> tuple[npt.NDArray[np.uint8], Box]:
    """Reads a tissue mask.

    Args:
        path: path of the ``.npz`` file.
        size: size of the image that the mask must have; not checked if None.

    Returns:
        The mask (H, W) uint8 of :class:`TissueClass`, and the crop (all of the mask if the file states none).

    Raises:
        MissingInput: there is no such file.
        BadAnnotation: the file is damaged, is not a mask, is over the size limit of slides, contains numbers that are
            not classes, or has another size than ``size``.
    """
    arrays = _load(path, "mask", "tissue mask", size)
    values = arrays["mask"]
    if values.size and not 0 <= values.min() <= values.max() <= max(TissueClass):
        raise BadAnnotation(
            f"The tissue mask {path} contains numbers from {values.min()} to {values.max()}, but the classes are 0 to "
            f"{max(TissueClass):d}: segment the slide again with this version."
        )
    whole = Size(*values.shape)
    crop = Box.whole(whole)
    if "crop_bbox" in arrays:
        bbox = [int(edge) for edge in arrays["crop_bbox"].ravel()]
        if len(bbox) != 4 or not Box(*bbox).fits(whole):
            raise BadAnnotation(f"The crop_bbox of {path} is {bbox}, outside its mask: segment the slide again.")
        crop = Box(*bbox)
    return values.astype(np.uint8, copy=False), crop


def save_instances(path: Path, instances: TiledArray | npt.NDArray[np.int32]) -> Path:
    """Writes an instance map: ``instances`` (H, W) int32, 0 background.

    Raises:
        StorageFailed: the disk is full or the folder is not writable.
    """
    return _save(path, {"instances": instances})


def load_instances(path: Path, *, size: Size | None = None) -> npt.NDArray[np.int32]:
    """Reads an instance map (H, W) int32; arguments and errors as for :func:`load_mask`."""
    values = _load(path, "instances", "instance map", size)["instances"]
    if values.size and not 0 <= values.min() <= values.max() <= np.iinfo(np.int32).max:
        raise BadAnnotation(f"The instance map {path} has numbers outside 0 to 2147483647: segment the slide again.")
    return values.astype(np.int32, copy=False)


def _save(path: Path, arrays: Mapping[str, TiledArray | npt.NDArray[Any]]) -> Path:
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for key, array in arrays.items():
            bands: Iterable[npt.NDArray[Any]] = array.bands() if isinstance(array, TiledArray) else [array]
            # By its name, it has the earliest date of the format, so that equal arrays give equal bytes, and the level.
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                header = {"descr": _npy.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
                _npy.write_array_header_1_0(member, header)
                for band in bands:
                    member.write(np.ascontiguousarray(band).reshape(-1).view(np.uint8).data)
    return path


def _load(path: Path, key: str, what: str, size: Size | None) -> dict[str, npt.NDArray[Any]]:
    """Reads the array ``key``, (H, W) integers, and ``crop_bbox`` if the file has one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if f"{key}.npy" not in names:
                raise BadAnnotation(
                    f"{path} has no array {key!r}: it holds no {what}; name the folder that holds them."
                )
            wanted = [name for name in (key, "crop_bbox") if f"{name}.npy" in names]
            arrays = {name: _read_array(archive, name, path) for name in wanted}
    except FileNotFoundError as error:
        raise MissingInput(f"There is no {what} {path}: run the stage before this one.") from error
    except (*ARCHIVE_ERRORS, ValueError) as error:
        raise BadAnnotation(f"The {what} {path} is damaged or not an .npz file ({error}): make it again.") from error
    shape = arrays[key].shape
    if len(shape) != 2:
        raise BadAnnotation(f"The {what} {path} has the shape {shape}, but needs two dimensions: compute it again.")
    if size is not None and shape != (size.height_px, size.width_px):
        raise BadAnnotation(
            f"The {what} {path} is {shape[1]}×{shape[0]} px but its image {size.width_px}×{size.height_px}: compute it "
            "from this image again."
        )
    return arrays


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Reads the header of a ``.npy`` file: shape, Fortran order, type.

    numpy's reader uses ``ast.literal_eval``. In CPython 3.11 that raises ``SystemError: AST constructor recursion depth
    mismatch`` at random when another thread uses ``ast`` at the same time, because all threads share one counter
    (https://github.com/python/cpython/issues/106905). Printing a traceback uses ``ast`` too, so a lock here would not
    be enough.

    Raises:
        ValueError: not the header of an array of plain numbers or objects.
    """
    version = _npy.read_magic(file)
    count = 2 if version == (1, 0) else 4
    length = int.from_bytes(file.read(count), "little")
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"its header takes {length} bytes")
    header = _HEADER.fullmatch(file.read(length).decode("latin1"))
    if header is None:
        raise ValueError("its header is not that of an array")
    shape = tuple(int(side) for side in header["shape"].split(",") if side.strip())
    try:
        dtype = np.dtype(header["type"])
    except TypeError as error:
        raise ValueError(f"its header names the type {header['type']}, which numpy does not have") from error
    return shape, header["order"] == "True", dtype


def _read_array(archive: zipfile.ZipFile, key: str, path: Path) -> npt.NDArray[Any]:
    """Reads one array in bounded memory: the size in the header is checked before memory is allocated."""
    with archive.open(f"{key}.npy") as member:
        shape, fortran_order, dtype = read_header(member)
        if dtype.kind not in "iub":
            raise BadAnnotation(f"The array {key!r} of {path} contains {dtype}, not integers: compute it again.")
        if any(side > MAX_SIDE_PX for side in shape) or len(shape) > 2:
            raise BadAnnotation(
                f"The array {key!r} of {path} has the shape {shape}, over the limit of {MAX_SIDE_PX} px a side: "
                "export a smaller region."
            )
        array = np.empty(math.prod(shape), dtype)
        view = array.view(np.uint8)
        done = 0
        while chunk := member.read(1 << 20):  # up to the member's end, where its checksum is compared
            if done + len(chunk) > view.size:
                raise EOFError(f"{key!r} continues after its {view.size} bytes")
            view[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
            done += len(chunk)
        if done < view.size:
            raise EOFError(f"{key!r} ends after {done} of {view.size} bytes")
    return array.reshape(shape, order="F" if fortran_order else "C")
