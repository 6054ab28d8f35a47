"""What every command does alike: images found, failures told in a sentence, progress shown, rows written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dermatome.errors import BadImage, DermatomeError, MissingInput

if TYPE_CHECKING:
    from rich.progress import Progress

    from dermatome.inference.compute import Compute
    from dermatome.slides.slide import Slide


MODELS = Path("~/.cache/dermatome/models")
"""Where networks that are not ours are kept for the command line."""


Images = Annotated[
    list[Path],
    typer.Argument(
        help="Images (JPEG, PNG, TIFF), vendor slide files, or folders of them. The .dcm files of a folder are one "
        "slide, named after the folder.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for the results; made if it is not there.", show_default=False)]


class DeviceChoice(StrEnum):
    """Where networks run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class PrecisionChoice(StrEnum):
    """Numbers networks compute with."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class BackendChoice(StrEnum):
    """What runs networks."""

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"


Device = Annotated[DeviceChoice, typer.Option(help="Where networks run; one asked for and absent is an error.")]
PrecisionOption = Annotated[PrecisionChoice, typer.Option(help="Numbers networks compute with.")]
BackendOption = Annotated[
    BackendChoice,
    typer.Option(help="What runs networks: auto takes OpenVINO on a processor if it is installed, else torch."),
]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 takes the cores that are free to use.", min=0)]


def choose(
    device: DeviceChoice, precision: PrecisionChoice, threads: int, backend: BackendChoice | None = None
) -> Compute:
    """Chooses device, precision, threads and backend by the options.

    Raises:
        BadSetting: what was asked for is not there.
    """
    from dermatome.inference.compute import choose_compute

    return choose_compute(device.value, precision.value, threads, backend=backend.value if backend else "auto")


def each_slide(
    images: Sequence[Path],
    mpp: float,
    work: Callable[[Slide], str],
    finish: Callable[[], None] | None = None,
) -> None:
    """Reads each image and does ``work``; two images of one name would overwrite each other, so the second fails.

    ``mpp`` is for files that state no scale.
    """
    from dermatome.slides.plain import SUFFIXES
    from dermatome.slides.slide import read_slide, slide_name
    from dermatome.slides.vendors import WSI_SUFFIXES

    paths = list(image_files(images, (*SUFFIXES, *WSI_SUFFIXES)))
    first: dict[str, Path] = {}

    def one(path: Path) -> str:
        other = first.setdefault(slide_name(path), path)
        if other != path:
            raise BadImage(f"{path} has the same name as {other}, so its results would overwrite those: rename one.")
        return work(read_slide(path, declared_mpp=mpp))

    failed = each(paths, one, "Images")
    if finish is not None:
        finish()
    end(failed, len(paths), "images")


def image_files(paths: Sequence[Path], suffixes: Sequence[str]) -> Iterator[Path]:
    """Files as they are given, and those of folders with one of ``suffixes``; one that is given twice comes once.

    For DICOM files comes the folder that they lie in, which is one slide; so do such folders in a folder, where
    ``suffixes`` have DICOM's.

    Raises:
        MissingInput: a folder without images.
    """
    from dermatome.slides.dicom import DICOM_SUFFIX, is_dicom, is_dicom_folder

    seen: set[tuple[Path, str]] = set()
    for path in paths:
        found = [path]
        if path.is_dir():
            found = sorted(
                file
                for file in path.iterdir()
                if file.suffix.lower() in suffixes or (DICOM_SUFFIX in suffixes and is_dicom_folder(file))
            )
            if not found:
                raise MissingInput(f"The folder {path} holds no image ({', '.join(suffixes)}): check the path.")
        for one in found:
            file = one.parent if is_dicom(one.name) and one.is_file() else one
            # A link by another name is another image to its user: only the folder is resolved.
            place = (file.resolve(), "") if file.is_dir() else (file.parent.resolve(), file.name)
            if place not in seen:
                seen.add(place)
                yield file


def each(paths: Sequence[Path], work: Callable[[Path], str], what: str) -> int:
    """Does ``work`` on each path with a progress bar, goes on after failures, and returns how many there were."""
    failed = 0
    with progress_bar() as bar:
        task = bar.add_task(what, total=len(paths))
        for path in paths:
            bar.update(task, description=f"{what}: {path.name}")
            try:
                message = work(path)
            except DermatomeError as error:
                failed += 1
                complain(str(error))
            except Exception as error:  # a defect of ours in one image is no reason to lose the others
                failed += 1
                complain(f"{path}: {type(error).__name__}: {error}; this is a defect of Dermatome, please report it.")
            else:
                typer.echo(f"{path.name}: {message}")
            bar.advance(task)
    return failed


def end(failed: int, total: int, what: str) -> None:
    """Ends the command with exit code 1 where anything failed."""
    if failed:
        complain(f"{failed} of {total} {what} failed; the reasons are above.")
        raise typer.Exit(1)


def progress_bar() -> Progress:
    """A progress bar on the error stream; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def complain(message: str) -> None:
    """Says ``message`` on the error stream."""
    typer.echo(message, err=True)


def write_rows(path: Path, table: Any) -> None:
    """Writes a pandas table as Parquet, whole."""
    from dermatome.storage.files import atomic_file

    with atomic_file(path) as file:
        table.to_parquet(file, index=False)


def read_cells(path: Path) -> Any:
    """What layers need of the table of cells: ``cell_id`` and ``equivalent_diameter_um``.

    Raises:
        MissingInput: no such file.
        BadAnnotation: it is no such table.
    """
    import pandas as pd

    from dermatome.errors import BadAnnotation

    try:
        return pd.read_parquet(path, columns=["cell_id", "equivalent_diameter_um"])
    except FileNotFoundError as error:
        raise MissingInput(f"There is no table of cells {path}: make it with 'dermatome cells segment'.") from error
    except (OSError, ValueError, KeyError) as error:
        raise BadAnnotation(f"The table of cells {path} cannot be read ({error}): make it again.") from error
