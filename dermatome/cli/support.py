"""What the commands share: options, the loop over images with its failures and progress, tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dermatome.errors import BadAnnotation, BadImage, DermatomeError, MissingInput

if TYPE_CHECKING:
    from rich.progress import Progress

    from dermatome.inference.compute import Compute
    from dermatome.slides.slide import Slide

GROUP: dict[str, Any] = {"no_args_is_help": True, "context_settings": {"help_option_names": ["-h", "--help"]}}
"""Arguments of every group of commands."""

MODELS = Path("~/.cache/dermatome/models")
"""Folder in which the command line keeps downloaded networks."""


class DeviceChoice(StrEnum):
    """Device on which networks run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class PrecisionChoice(StrEnum):
    """Number format in which networks compute."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class BackendChoice(StrEnum):
    """Library that runs networks."""

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"


def number(text: str, low: float, high: float) -> Any:
    """An option that is a number within a range; other than click's own ranges it also refuses NaN.

    Args:
        text: Help of the option.
        low: Smallest value.
        high: Largest value.
    """

    def check(value: float | None) -> float | None:
        if value is not None and math.isnan(value):
            raise typer.BadParameter(f"{value} is not a number.")
        return value

    return typer.Option(help=text, min=low, max=high, callback=check)


class GivenMpp(float):
    """A scale that the command line states, not the default of --mpp."""


def given_mpp(context: typer.Context, value: float) -> float:
    """Marks a scale that the command line states; refuses NaN, which click's range lets pass."""
    if math.isnan(value):
        raise typer.BadParameter(f"{value} is not a number.")
    source = context.get_parameter_source("mpp")
    return GivenMpp(value) if source is not None and source.name == "COMMANDLINE" else value


Images = Annotated[
    list[Path],
    typer.Argument(
        help="Images (JPEG, PNG, TIFF), slide files of scanner vendors, or folders of them. The .dcm files of a folder "
        "are one slide, named after the folder.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for the results; it is created if necessary.", show_default=False)]
Mpp = Annotated[
    float,
    typer.Option(
        help="Scale in microns per pixel of images whose file states none, such as those of the Human Protein Atlas. "
        "Set it to the scale at which they were scanned. Without it, an image whose file names an objective that "
        "contradicts the default is refused.",
        min=0.01,
        max=100,
        callback=given_mpp,
    ),
]
TissueMasks = Annotated[Path, typer.Option(help="Folder of masks from 'tissue predict'.", show_default=False)]
Models = Annotated[
    Path, typer.Option(help="Folder of Cellpose's files for cyto2. Missing files are downloaded into it.")
]
Seed = Annotated[int, typer.Option(help="Seed for every random choice; another seed draws differently.")]
Batch = Annotated[
    int, typer.Option(help="Tiles per call of the network; lower it if memory runs out. Results do not change.", min=1)
]
Device = Annotated[DeviceChoice, typer.Option(help="Device that networks run on; auto takes a GPU if there is one.")]
PrecisionOption = Annotated[
    PrecisionChoice,
    typer.Option(help="Number format of networks; auto takes the fastest one that suits the device, fp32 is exact."),
]
BackendOption = Annotated[
    BackendChoice,
    typer.Option(help="Library that runs networks; auto takes OpenVINO on a CPU if it is installed, else torch."),
]
Threads = Annotated[
    int,
    typer.Option(
        help="CPU threads; 0 takes all free cores. Lower it to leave cores to other programs.", min=0, max=1024
    ),
]


def choose(
    device: DeviceChoice,
    precision: PrecisionChoice,
    threads: int,
    backend: BackendChoice = BackendChoice.AUTO,
) -> Compute:
    """Chooses device, precision, threads and backend as the options say.

    Raises:
        BadSetting: The device, precision or backend is not available.
    """
    from dermatome.inference.compute import choose_compute

    return choose_compute(device.value, precision.value, threads, backend=backend.value)


def each_slide(
    images: Sequence[Path], mpp: float, work: Callable[[Slide], str], finish: Callable[[], None] | None = None
) -> None:
    """Reads each image and calls ``work`` on it, as :func:`each` does.

    Args:
        images: Files and folders that the command was given.
        mpp: Microns per pixel of images whose file states none.
        work: Processes a slide and describes the result.
        finish: Called after the last image.

    Raises:
        MissingInput: A folder has no image.
        Exit: An image failed. Of two images with the same name the second fails, as its results would overwrite those
            of the first.
    """
    from dermatome.slides.plain import SUFFIXES
    from dermatome.slides.slide import read_slide, slide_name
    from dermatome.slides.vendors import WSI_SUFFIXES

    first: dict[str, Path] = {}

    def one(path: Path) -> str:
        other = first.setdefault(slide_name(path), path)
        if other != path:
            raise BadImage(f"{path} has the same name as {other}, so its results would overwrite those: rename one.")
        slide = read_slide(path, declared_mpp=mpp, mpp_given=isinstance(mpp, GivenMpp))
        if slide.conversions:
            complain(f"{path.name}: {'; '.join(slide.conversions)}.")
        return work(slide)

    each(list(image_files(images, (*SUFFIXES, *WSI_SUFFIXES))), one, "images", finish)


def each(
    paths: Sequence[Path], work: Callable[[Path], str], what: str, finish: Callable[[], None] | None = None
) -> None:
    """Calls ``work`` on each path with a progress bar, and continues after failures.

    Args:
        paths: Files or folders.
        work: Processes one of them and describes the result.
        what: What they are, in the plural.
        finish: Called after the last one.

    Raises:
        Exit: Something failed; each reason was printed to the error stream.
    """
    failed = 0
    with progress_bar() as bar:
        task = bar.add_task(what.capitalize(), total=len(paths))
        for path in paths:
            bar.update(task, description=f"{what.capitalize()}: {path.name}")
            try:
                message = work(path)
            except DermatomeError as error:
                failed += 1
                complain(str(error))
            except OSError as error:
                failed += 1
                complain(unusable_file(error, path))
            except MemoryError:
                failed += 1
                complain(f"{path} needs more memory than is free: use smaller images or tiles, or a larger machine.")
            except Exception as error:  # a defect that shows in one image must not lose the others
                failed += 1
                complain(f"{path}: {type(error).__name__}: {error}; this is a defect of Dermatome, please report it.")
            else:
                typer.echo(f"{path.name}: {message}")
            bar.advance(task)
    if finish is not None:
        finish()
    if failed:
        complain(f"{failed} of {len(paths)} {what} failed; the reasons are above.")
        raise typer.Exit(1)


def image_files(paths: Sequence[Path], suffixes: Sequence[str]) -> Iterator[Path]:
    """Yields each image once: files as they are given, and the files of folders that have one of ``suffixes``.

    A DICOM slide is yielded as the folder of its files, also if it lies in a given folder and ``suffixes`` contains
    DICOM's. What else lies in a folder is counted on the error stream, by kind; hidden files are not.

    Raises:
        MissingInput: A folder has no image, or cannot be read.
    """
    from dermatome.slides.dicom import DICOM_SUFFIX, is_dicom, is_dicom_folder

    seen: set[tuple[Path, str]] = set()
    for path in paths:
        found, left = [path], Counter[str]()
        try:
            if path.is_dir():
                found = []
                for file in sorted(path.iterdir()):
                    if file.suffix.lower() in suffixes or (DICOM_SUFFIX in suffixes and is_dicom_folder(file)):
                        found.append(file)
                    elif not file.name.startswith("."):
                        left["folder" if file.is_dir() else f"{file.suffix.lower() or 'other'} file"] += 1
        except OSError as error:
            raise MissingInput(unusable_file(error, path)) from error
        if left and found:
            kinds = ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in sorted(left.items()))
            complain(
                f"{path}: {kinds} not read: images end in {', '.join(suffixes)}, and folders in it are to be given "
                "themselves."
            )
        if not found:
            raise MissingInput(f"The folder {path} holds no image ({', '.join(suffixes)}): check the path.")
        for one in found:
            file = one.parent if is_dicom(one.name) and one.is_file() else one
            # A link is another image to its user, so only the folder is resolved.
            place = (file.resolve(), "") if file.is_dir() else (file.parent.resolve(), file.name)
            if place not in seen:
                seen.add(place)
                yield file


def progress_bar() -> Progress:
    """A progress bar on the error stream; none if that is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def complain(message: str) -> None:
    """Prints a message to the error stream."""
    typer.echo(message, err=True)


def warn(warning: str) -> None:
    """Prints a network's warning to the error stream, once for a command; nothing if it is empty."""
    if warning:
        complain(f"Warning: {warning}")


def unusable_file(error: OSError, path: Path | None = None) -> str:
    """One sentence on a file that cannot be read or written; a long path is shortened."""
    named = str(error.filename or path or "A file")
    shown = named if len(named) <= 200 else f"{named[:100]}…{named[-60:]}"
    return f"{shown} cannot be used ({error.strerror or error}): check the path."


def write_rows(path: Path, table: Any, warning: str = "") -> None:
    """Writes a pandas table as a Parquet file, atomically; pandas reads ``warning`` as one of its attrs.

    Raises:
        StorageFailed: The file cannot be written.
    """
    from dermatome.storage.files import write_atomic

    table.attrs = {"warning": warning} if warning else {}
    write_atomic(path, table.to_parquet(index=False))


def read_cells(path: Path) -> Any:
    """Reads ``cell_id`` and ``equivalent_diameter_um`` from a table of cells, and the warning in its attrs.

    Raises:
        MissingInput: The file does not exist.
        BadAnnotation: The file is not a table of cells.
    """
    import pandas as pd

    try:
        return pd.read_parquet(path, columns=["cell_id", "equivalent_diameter_um"])
    except FileNotFoundError as error:
        raise MissingInput(f"There is no table of cells {path}: create it with 'dermatome cells segment'.") from error
    except (OSError, ValueError, KeyError) as error:
        raise BadAnnotation(f"The table of cells {path} cannot be read ({error}): create it again.") from error
