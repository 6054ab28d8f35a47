"""Shared parts of the commands: options, the loop over images with failures and progress, tables."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dermatome.errors import BadAnnotation, BadImage, BadWeights, DermatomeError, MissingInput
from dermatome.inference.compute import Backend, DeviceName, Precision, choose_compute
from dermatome.storage.settings_model import SettingsModel

if TYPE_CHECKING:
    from rich.progress import Progress

    from dermatome.slides.slide import Slide
    from dermatome.storage.record import StageRecord, StageResult

Report = Callable[[str], None]
"""Callback that shows the current step of an image beside the progress bar."""

GROUP: dict[str, Any] = {"no_args_is_help": True, "context_settings": {"help_option_names": ["-h", "--help"]}}
"""Arguments of every command group."""

MODELS = Path("~/.cache/dermatome/models")
"""Folder in which the command line stores downloaded networks."""


def number(text: str, low: float, high: float) -> Any:
    """A numeric option with a range; unlike click's own ranges, it also refuses NaN.

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
    """A scale given on the command line, as opposed to the default of --mpp."""


def given_mpp(context: typer.Context, value: float) -> float:
    """Marks a scale that was given on the command line; refuses NaN, which click's range accepts."""
    if math.isnan(value):
        raise typer.BadParameter(f"{value} is not a number.")
    source = context.get_parameter_source("mpp")
    return GivenMpp(value) if source is not None and source.name == "COMMANDLINE" else value


Images = Annotated[
    list[Path],
    typer.Argument(
        help="Images (JPEG, PNG, TIFF), slide files of scanner vendors, or folders of them. The .dcm files in a folder "
        "are one slide, named after the folder.",
        show_default=False,
    ),
]
Data = Annotated[str, typer.Option(help="Data root with the results.")]
Out = Annotated[Path, typer.Option(help="Folder for the results; it is created if necessary.", show_default=False)]
Mpp = Annotated[
    float,
    typer.Option(
        help="Scale in microns per pixel of images whose file states none, such as those of the Human Protein Atlas. "
        "Set it to the scale at which they were scanned. With the default, an image whose file names a contradicting "
        "objective is refused.",
        min=0.01,
        max=100,
        callback=given_mpp,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Recompute existing results. By default, a result of the same image, weights, settings and version is "
        "kept.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
TissueMasks = Annotated[Path, typer.Option(help="Folder of masks from 'tissue predict'.", show_default=False)]
Models = Annotated[
    Path, typer.Option(help="Folder of Cellpose's files for cyto2. Missing files are downloaded into it.")
]
Seed = Annotated[int, typer.Option(help="Seed for every random choice; set another for another draw.")]
BATCH = "Tiles per call of the network; lower it if memory runs out. Results do not change."
Device = Annotated[DeviceName, typer.Option(help="Device that runs networks; auto uses a GPU if there is one.")]
PrecisionOption = Annotated[
    Precision,
    typer.Option(help="Number format of networks; auto uses the fastest that suits the device, fp32 is exact."),
]
BackendOption = Annotated[
    Backend,
    typer.Option(help="Library that runs networks; auto uses OpenVINO on a CPU if it is installed, else torch."),
]
Threads = Annotated[
    int,
    typer.Option(
        help="CPU threads; 0 uses all free cores. Lower it to leave cores to other programs.", min=0, max=1024
    ),
]


def with_options(
    settings: type[SettingsModel] | None = None, *, compute: bool = False, **helps: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a command: its options become the arguments ``settings`` and, with ``compute``, ``compute``.

    Args:
        settings: Settings model whose fields become options, with their types and defaults.
        compute: Whether the command has options for the device that runs networks.
        **helps: Help of the option of each setting that gets one.
    """
    options: dict[str, tuple[Any, Any]] = {}
    for name, text in helps.items():
        assert settings is not None
        info = settings.model_fields[name]
        limits = {"min": "ge", "max": "le"}
        found = {
            key: getattr(limit, bound)
            for key, bound in limits.items()
            for limit in info.metadata
            if hasattr(limit, bound)
        }
        options[name] = Annotated[info.annotation, typer.Option(help=text, **found)], info.default
    if compute:
        options |= {
            "device": (Device, "auto"), "precision": (PrecisionOption, "auto"), "backend": (BackendOption, "auto"),
            "threads": (Threads, 0),
        }  # fmt: skip

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**values: Any) -> None:
            if settings is not None:
                values["settings"] = settings(**{name: values.pop(name) for name in helps})
            if compute:
                device, precision, backend, threads = (values.pop(name) for name in [*options][-4:])
                values["compute"] = choose_compute(device, precision, threads, backend=backend)
            command(**values)

        own = inspect.signature(command, eval_str=True).parameters.values()
        kept = {
            parameter.name: (parameter.annotation, parameter.default)
            for parameter in own
            if parameter.name not in ("settings", "compute")
        }
        return with_signature(run, kept | options, str(command.__doc__))

    return decorate


def with_signature(run: Callable[..., None], options: Mapping[str, tuple[Any, Any]], text: str) -> Callable[..., None]:
    """Gives ``run`` the signature from which typer creates options (type and default by name) and the help ``text``."""
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for name, (kind, default) in options.items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {name: kind for name, (kind, _) in options.items()}
    run.__doc__ = text
    return run


@dataclass(frozen=True)
class Results:
    """Results of a command: files and a record ``<stem>.json`` for each image.

    Attributes:
        out: folder of the results.
        asset: the platform's asset with the same results.
        settings: settings of the command.
        overwrite: whether existing results are recomputed.
    """

    out: Path
    asset: str
    settings: SettingsModel
    overwrite: bool
    _warned: list[str] = field(default_factory=list)

    def of(self, slide: Slide, write: Callable[[Path], StageResult], **inputs: str) -> tuple[StageRecord, str]:
        """The record of an image's result, and a note to print before it; calls ``write`` unless the result exists.

        Args:
            slide: the image.
            write: computes the result and writes its files into a folder.
            inputs: sha256 of each further input of the result.
        """
        from dermatome.pipeline.exported import slide_inputs

        return self.from_inputs(slide.name, slide_inputs(slide, **inputs), write, "image, weights")

    def from_inputs(
        self, name: str, inputs: Mapping[str, str], write: Callable[[Path], StageResult], same: str
    ) -> tuple[StageRecord, str]:
        """Like :meth:`of`, for anything with a name; ``same`` names the inputs that are equal if a result is kept."""
        from dermatome.pipeline.exported import find_result, write_result
        from dermatome.pipeline.stage_files import synthetic_warning

        deciding = self.settings.deciding()
        found = None if self.overwrite else find_result(self.out, name, inputs, deciding)
        note = "" if found is None else f"kept (same {same} and settings): "
        if found is None:
            found = write_result(self.out, name, self.asset, name, inputs, deciding, write)
        if (warning := synthetic_warning(found.values)) and not self._warned:  # once for each command
            self._warned.append(name)
            warn(warning)
        return found, note

    def join(self, name: str, tables: Sequence[Any], also: str) -> None:
        """Merges tables of images into the table ``name`` in the folder; also writes the merged table to ``also``."""
        if tables:
            merged = merge_table(self.out / name, tables)
            write_table(str(self.out / name), merged)
            if also:
                write_table(also, merged)


def each_slide(
    images: Sequence[Path],
    mpp: float,
    work: Callable[[Slide, Report], str],
    finish: Callable[[], None] | None = None,
    say: Callable[[str], None] = typer.echo,
) -> None:
    """Reads each image in files and folders and calls ``work`` on it, like :func:`each`.

    Raises:
        MissingInput: A folder has no image.
        Exit: An image failed. Of two images with the same name the second fails, as its results would overwrite those
            of the first.
    """
    from dermatome.slides.plain import SUFFIXES
    from dermatome.slides.slide import read_slide, slide_name
    from dermatome.slides.vendors import WSI_SUFFIXES

    first: dict[str, Path] = {}

    def one(path: Path, report: Report) -> str:
        other = first.setdefault(slide_name(path), path)
        if other != path:
            raise BadImage(f"{path} has the same name as {other}, so its results would overwrite those: rename one.")
        slide = read_slide(path, declared_mpp=mpp, mpp_given=isinstance(mpp, GivenMpp))
        if slide.conversions:
            complain(f"{path.name}: {'; '.join(slide.conversions)}.")
        return work(slide, report)

    each(list(image_files(images, (*SUFFIXES, *WSI_SUFFIXES))), one, "images", finish, say)


def each(
    paths: Sequence[Path],
    work: Callable[[Path, Report], str],
    what: str,
    finish: Callable[[], None] | None = None,
    say: Callable[[str], None] = typer.echo,
) -> None:
    """Calls ``work`` on each path with a progress bar, and continues after failures.

    Args:
        paths: Files or folders.
        work: Processes one path, reports its steps, and describes the result.
        what: Plural noun for the paths, for messages.
        finish: Called at the end.
        say: Prints the descriptions returned by ``work``.

    Raises:
        BadWeights: The network cannot be loaded, so all would fail.
        Exit: Something failed; each reason was printed to the error stream.
    """
    failed = 0
    with progress_bar() as bar:
        task = bar.add_task(what.capitalize(), total=len(paths))
        for path in paths:
            now = f"{what.capitalize()}: {path.name}"
            bar.update(task, description=now)
            try:
                message = work(path, lambda step, now=now: bar.update(task, description=f"{now}: {step}"))  # type: ignore[misc]
            except BadWeights:
                raise
            except Exception as error:  # not even a defect that one image triggers may lose the others
                failed += 1
                complain(_reason(error, path))
            else:
                say(f"{path.name}: {message}")
            bar.advance(task)
    if finish is not None:
        finish()
    if failed:
        complain(f"{failed} of {len(paths)} {what} failed; the reasons are above.")
        raise typer.Exit(1)


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, DermatomeError):
        return str(error)
    if isinstance(error, OSError):
        return unusable_file(error, path)
    if isinstance(error, MemoryError):
        return f"{path} needs more memory than is free: use smaller images or tiles, or a larger machine."
    return f"{path}: {type(error).__name__}: {error}; this is a defect of Dermatome, please report it."


def image_files(paths: Sequence[Path], suffixes: Sequence[str]) -> Iterator[Path]:
    """Yields each image once: given files, and the files in given folders that have one of ``suffixes``.

    A DICOM slide is yielded as the folder of its files, also if it lies in a given folder and ``suffixes`` contains
    DICOM's. Other files in a folder are counted on the error stream, by kind, except hidden ones.

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
                f"{path}: {kinds} not read: images end in {', '.join(suffixes)}, and folders inside it must be given "
                "separately."
            )
        if not found:
            raise MissingInput(f"The folder {path} contains no image ({', '.join(suffixes)}): check the path.")
        for entry in found:
            file = entry.parent if is_dicom(entry.name) and entry.is_file() else entry
            # A link counts as an image of its own, so only its folder is resolved.
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
    """Prints a warning to the error stream; nothing if it is empty."""
    if warning:
        complain(f"Warning: {warning}")


def unusable_file(error: OSError, path: Path | None = None) -> str:
    """One sentence on a file that cannot be read or written; a long path is shortened."""
    named = str(error.filename or path or "A file")
    shown = named if len(named) <= 200 else f"{named[:100]}…{named[-60:]}"
    return f"{shown} cannot be used ({error.strerror or error}): check the path."


def check_table(out: str) -> str:
    """Refuses a table name without a known format, before anything is computed."""
    if out not in ("", "-") and not out.lower().endswith((".csv", ".parquet")):
        raise typer.BadParameter(f"{out} has no format: end it in .csv or .parquet, or give - for CSV on the screen.")
    return out


TableOut = Annotated[
    str,
    typer.Option(
        help="Table to write: .parquet, .csv, or - for CSV on the standard output.",
        show_default=False,
        callback=check_table,
    ),
]


def write_table(out: str, table: Any) -> None:
    """Writes a pandas table atomically, in the place and format of a :data:`TableOut`.

    Raises:
        StorageFailed: The file cannot be written.
    """
    from dermatome.storage.files import write_atomic

    if out == "-":
        typer.echo(table.to_csv(index=False), nl=False)
    else:
        content = table.to_csv(index=False).encode() if out.lower().endswith(".csv") else table.to_parquet(index=False)
        write_atomic(Path(out), content)


def merge_table(path: Path, new: Sequence[Any]) -> Any:
    """Merges the tables of slides in ``new`` with the rows of other slides in the Parquet file at ``path``, by slide.

    Raises:
        BadAnnotation: The file is not such a table.
    """
    import pandas as pd

    tables = list(new)
    if path.is_file():
        try:
            old = pd.read_parquet(path)
            tables.append(old[~old["slide"].isin({name for table in new for name in table["slide"]})])
        except (OSError, ValueError, KeyError) as error:
            raise BadAnnotation(
                f"{path} is not a table of slides ({error}): move it away, or use another folder."
            ) from error
    return pd.concat(tables, ignore_index=True).sort_values("slide", kind="stable", ignore_index=True)


def read_cells(path: Path) -> Any:
    """Reads a table of cells with at least ``cell_id`` and ``equivalent_diameter_um``.

    Raises:
        MissingInput: The file does not exist.
        BadAnnotation: The file is not a table of cells.
    """
    import pandas as pd

    try:
        table = pd.read_parquet(path)
        table[["cell_id", "equivalent_diameter_um"]]
        return table.drop(columns="slide", errors="ignore")
    except FileNotFoundError as error:
        raise MissingInput(f"There is no table of cells {path}: create it with 'dermatome cells segment'.") from error
    except (OSError, ValueError, KeyError) as error:
        raise BadAnnotation(f"The table of cells {path} cannot be read ({error}): create it again.") from error
