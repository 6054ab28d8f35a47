"""DICOM slides drawn for tests: two levels without loss and a label, a file each, in a folder."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage, generate_uid

_TILE_PX = 128


def write_dicom_slide(folder: Path, rgb: npt.NDArray[np.uint8], mpp: float = 0.5) -> None:
    """Writes an (H, W, 3) slide and every other pixel of it; by their names, the full level is the second."""
    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid()
    write_dicom(folder / "2.dcm", rgb, series, mpp=mpp)
    write_dicom(folder / "1.dcm", rgb[::2, ::2], series, mpp=2 * mpp)
    write_dicom(folder / "3.dcm", rgb[:60, :60], series, "LABEL")


def write_dicom(
    path: Path, rgb: npt.NDArray[np.uint8], series: str, kind: str = "VOLUME", *, mpp: float = 0.5, **more: object
) -> None:
    """Writes one file of a series, (H, W, 3) in tiles one after the other; ``more`` are further or other elements."""
    height, width = rgb.shape[:2]
    down, across = -(-height // _TILE_PX), -(-width // _TILE_PX)
    full = np.pad(rgb, ((0, down * _TILE_PX - height), (0, across * _TILE_PX - width), (0, 0)))
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]
    shared.PixelMeasuresSequence = [measures]
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    elements = {
        "SOPClassUID": VLWholeSlideMicroscopyImageStorage, "SOPInstanceUID": generate_uid(),
        "SeriesInstanceUID": series, "Modality": "SM", "ImageType": ["ORIGINAL", "PRIMARY", kind, "NONE"],
        "TotalPixelMatrixRows": height, "TotalPixelMatrixColumns": width, "DimensionOrganizationType": "TILED_FULL",
        "NumberOfFrames": down * across, "Rows": _TILE_PX, "Columns": _TILE_PX, "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "BitsAllocated": 8, "BitsStored": 8,
        "HighBit": 7, "PixelRepresentation": 0, "SharedFunctionalGroupsSequence": [shared],
        "PixelData": full.reshape(down, _TILE_PX, across, _TILE_PX, 3).swapaxes(1, 2).tobytes(),
    }  # fmt: skip
    for name, value in (elements | more).items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)
