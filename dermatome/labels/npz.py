"""Arrays of whole numbers in ``.npz`` files: the same bytes for the same arrays, and untrusted ones read safely."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dermatome.errors import BadAnnotation, MissingInput
from dermatome.geometry import Size
from dermatome.slides.slide import MAX_SIDE_PX
from dermatome.storage.files import atomic_file

_npy: Any = np.lib.format
_MAX_HEADER_BYTES = 10_000  # numpy's own limit
_HEADER = re.compile(
    r"\{'descr': '(?P<type>[^'\\]+)', 'fortran_order': (?P<order>True|False), "
    r"'shape': \((?P<shape>(?:\d+, ?)*\d*)\),? ?\}\s*"
)


def save_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> Path:
    """An ``.npz`` as numpy reads it, with the fixed date zip files may begin at: equal arrays give equal bytes."""
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for key, array in arrays.items():
            with array_member(archive, key, array.shape, array.dtype) as write:
                write(array)
    return path


@contextmanager
def array_member(
    archive: zipfile.ZipFile, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator[Callable[[npt.NDArray[Any]], object]]:
    """A function that takes the array ``key`` of an ``.npz`` in bands of rows from the top."""
    entry = zipfile.ZipInfo(f"{key}.npy")
    entry.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(entry, "w", force_zip64=True) as member:
        header = {"descr": _npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        _npy.write_array_header_1_0(member, header)
        yield lambda band: member.write(np.ascontiguousarray(band).reshape(-1).view(np.uint8).data)


def load_arrays(path: Path, key: str, what: str, size: Size | None) -> dict[str, npt.NDArray[Any]]:
    """The array ``key``, (H, W) whole numbers, and ``crop_bbox`` where there is one.

    Args:
        path: the ``.npz``.
        key: name of the array.
        what: the array in words, for messages.
        size: what it must be (H, W); not checked where None.

    Raises:
        MissingInput: no such file.
        BadAnnotation: no such array, damaged, of other numbers, of another size, or larger than any slide may be.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if f"{key}.npy" not in names:
                raise BadAnnotation(f"{path} has no array {key!r}: it is no {what}; give the folder that holds them.")
            wanted = [name for name in (key, "crop_bbox") if f"{name}.npy" in names]
            arrays = {name: _read_array(archive, name, path) for name in wanted}
    except FileNotFoundError as error:
        raise MissingInput(f"There is no {what} {path}: make it with the stage before.") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise BadAnnotation(f"The {what} {path} is damaged or no .npz file ({error}): make it again.") from error
    shape = arrays[key].shape
    if len(shape) != 2:
        raise BadAnnotation(f"The {what} {path} has the shape {shape} where two dimensions are needed: make it again.")
    if size is not None and shape != (size.height_px, size.width_px):
        raise BadAnnotation(
            f"The {what} {path} is {shape[1]}×{shape[0]} px and its image {size.width_px}×{size.height_px}: make it "
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
    return shape, header["order"] == "True", np.dtype(header["type"])


def _read_array(archive: zipfile.ZipFile, key: str, path: Path) -> npt.NDArray[Any]:
    """Reads one array in bounded memory: the header is believed only after its size is checked."""
    with archive.open(f"{key}.npy") as member:
        shape, fortran_order, dtype = read_header(member)
        if dtype.kind not in "iub":
            raise BadAnnotation(f"The array {key!r} of {path} holds {dtype}, not whole numbers: make it again.")
        if any(side > MAX_SIDE_PX for side in shape) or len(shape) > 2:
            raise BadAnnotation(
                f"The array {key!r} of {path} has the shape {shape}, over the limit of {MAX_SIDE_PX} px a side: "
                "export a smaller region."
            )
        array = np.empty(math.prod(shape), dtype)
        view = array.view(np.uint8)
        done = 0
        while chunk := member.read(1 << 20):  # to the member's end, where its checksum is compared
            if done + len(chunk) > view.size:
                raise EOFError(f"{key!r} goes on after its {view.size} bytes")
            view[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
            done += len(chunk)
        if done < view.size:
            raise EOFError(f"{key!r} ends after {done} of {view.size} bytes")
    return array.reshape(shape, order="F" if fortran_order else "C")
