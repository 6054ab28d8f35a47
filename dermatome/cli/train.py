"""The commands `train` and `import-weights`, generated for each task from its settings.

A command is generated when it is called, because a task's settings need heavy imports.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperGroup

from dermatome.cli.support import MODELS, Device, PrecisionOption, Threads, progress_bar, with_signature
from dermatome.errors import BadSetting
from dermatome.inference.compute import choose_compute

if TYPE_CHECKING:
    import click

    from dermatome.registry.version import VersionTask
    from dermatome.training.settings import TrainingSettings

_SCALARS = (int, float, str, bool)
_REQUIRED = inspect.Parameter.empty
_NO_OPTION = ("accumulate", "checkpoint_seconds")


@dataclass(frozen=True)
class TrainCommands:
    """What the commands of one task are generated from.

    Attributes:
        task: module and class of the task.
        help: help of `train`.
        data: help of the option that names the samples.
        flags: options for switches in nested settings: option → path of the setting, and help.
        card: module and class of the card, for `import-weights`.
        defaults: defaults of options of `import-weights`.
        draw: module and function that draws synthetic samples into a folder and returns the settings for them, for
            `--synthetic` without samples.
    """

    task: tuple[str, str]
    help: str
    data: str
    flags: Mapping[str, tuple[tuple[str, str], str]] = field(default_factory=dict)
    card: tuple[str, str] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    draw: tuple[str, str] | None = None


COMMANDS = {
    "tissue": TrainCommands(
        ("dermatome.skin.tissue.task", "TissueTask"),
        "Train a U-Net on tiles and their masks, and write its weights.\n\n"
        "Example: dermatome tissue train --tiles tiles --out tissue.safetensors --report report --max-minutes 30",
        "Folder with images/, masks/ and palette.json; repeatable. With --synthetic and no folder, tiles are drawn.",
        card=("dermatome.skin.tissue.network", "TissueCard"),
        draw=("dermatome.skin.tissue.task", "draw_for_training"),
    ),
    "cells": TrainCommands(
        ("dermatome.skin.cells.task", "CellTask"),
        "Train a network with Cellpose's architecture on annotated cells, and write its weights.\n\n"
        "Example: dermatome cells train --images annotated --out cells.safetensors --report report --max-minutes 30",
        "Folder of images, each with a file of its cells: .xml, .geojson or _labels.tif; repeatable.",
    ),
    "nuclei": TrainCommands(
        ("dermatome.nuclei.maps.task", "NucleusTask"),
        "Train the network of nuclei on patches, and write its weights.\n\n"
        "Example: dermatome nuclei train --patches patches --out nuclei.safetensors --report report --max-minutes 60",
        "Folder from 'nuclei patches'; repeatable.",
        {
            "boundary_weighting": (
                ("loss", "boundary_weighting"),
                "Whether rare ternary classes have a larger weight in the loss.",
            ),
            "immune_sampling": (("sampling", "enabled"), "Whether patches with immune cells are drawn more often."),
        },
        card=("dermatome.nuclei.maps.network", "NucleusCard"),
        defaults={"encoder": "resnet34", "mpp": 0.25},
    ),
}


class TrainGroup(TyperGroup):
    """A command group with `train` and `import-weights` of its task besides its own commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands."""
        commands = COMMANDS[str(self.name)]
        return ["train", *(["import-weights"] if commands.card else []), *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name."""
        commands = COMMANDS[str(self.name)]
        if cmd_name == "train":
            return _click(train_command(commands), cmd_name)
        if cmd_name == "import-weights" and commands.card:
            return _click(import_command(str(self.name), commands), cmd_name)
        return super().get_command(ctx, cmd_name)


def _click(function: Callable[..., None], name: str) -> click.Command:
    app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
    app.command(name)(function)
    made: Any = typer.main.get_command(app)
    made.name = name
    return made  # type: ignore[no-any-return]


def train_command(commands: TrainCommands) -> Callable[..., None]:
    """The function behind `train`, with an option for each setting that is a number, text or switch."""
    task: type[VersionTask[Any]] = getattr(import_module(commands.task[0]), commands.task[1])
    settings: type[TrainingSettings] = task.settings_class
    samples = list[Path] | None if commands.draw else list[Path]
    weights = "Weights file to write (.safetensors); its card is written beside it as .json."
    options: dict[str, tuple[Any, Any]] = {
        task.noun: _option(samples, commands.data, None if commands.draw else _REQUIRED, show_default=False),
        "out": _option(Path, weights),
        "validation": _option(
            list[Path] | None,
            f"Folder of {task.noun} to validate on; repeatable. By default a share of the data is held out.", None,
        ),
        "continue_from": _option(
            str | None, f"Weights to fine-tune: {task.parents}. Their architecture is kept.", None
        ),
        "models": _option(Path, "Folder for downloaded files.", MODELS),
        "checkpoints": _option(
            Path | None, "Folder for the checkpoint from which a killed training resumes.", None
        ),
        "report": _option(Path | None, "Folder for the training report.", None),
        "gpus": _option(int, "Number of GPUs that share the micro-batches of a step.", 1, min=1),
        **_setting_options(settings),
        **{
            name: _option(bool | None, text, None, show_default=False)
            for name, (_, text) in commands.flags.items()
        },
        "device": (Device, "auto"),
        "precision": (PrecisionOption, "auto"),
        "threads": (Threads, 0),
    }  # fmt: skip

    def run(**values: Any) -> None:
        given = {name: values[name] for name in _setting_options(settings) if values[name] is not None}
        given["accumulate"] = values["gpus"]
        for name, ((part, switch), _) in commands.flags.items():
            if values[name] is not None:
                given[part] = {switch: values[name]}
        _train(task, given, values, commands.draw)

    return with_signature(run, options, commands.help)


def _option(kind: Any, text: str, default: Any = _REQUIRED, **more: Any) -> tuple[Any, Any]:
    """Type and default of an option."""
    return Annotated[kind, typer.Option(help=text, **more)], default


def _setting_options(settings: type[TrainingSettings]) -> dict[str, tuple[Any, Any]]:
    """An option for each setting that is a number, text or switch; None means its default."""
    options = {}
    for name, info in settings.model_fields.items():
        parts = get_args(info.annotation) if NoneType in get_args(info.annotation) else (info.annotation,)
        kinds = [str if get_origin(part) is Literal else part for part in parts]
        kind = next((kind for kind in kinds if kind in _SCALARS), None)
        if kind is not None and name not in _NO_OPTION:
            text = f"{info.description} Default: {str(info.default).lower()}."
            options[name] = _option(kind | None, text, None, show_default=False)
    return options


def _train(
    task: type[VersionTask[Any]], given: dict[str, Any], values: Mapping[str, Any], draw: tuple[str, str] | None
) -> None:
    from dermatome.registry.version import lineage_named, train_file
    from dermatome.training.settings import settings_from

    models, out = values["models"].expanduser(), values["out"]
    lineage = lineage_named(task, values["continue_from"], models) if values["continue_from"] else None
    settings = settings_from(task.settings_class, given if lineage is None else lineage.fill_in(given))
    folders = values[task.noun]
    with TemporaryDirectory() as drawn:
        if not folders and draw:
            if not settings.synthetic:
                raise BadSetting(f"There is nothing to train on: name a folder with --{task.noun}, or set --synthetic.")
            settings = getattr(import_module(draw[0]), draw[1])(Path(drawn), settings)
            folders = [Path(drawn)]
        chosen = task.choose(folders, values["validation"] or (), settings, lineage)
        compute = choose_compute(values["device"], values["precision"], values["threads"])
        with progress_bar() as bar:
            shown = bar.add_task(f"Training on {compute.device_name}", total=1.0)
            version = train_file(
                chosen,
                out,
                compute,
                lineage=lineage,
                checkpoint_dir=values["checkpoints"],
                on_epoch=lambda row, share: bar.update(shown, completed=share, description=chosen.epoch_text(row)),
                processes=values["gpus"],
                models_folder=models,
            )
    if values["report"] is not None:
        found: dict[str, Any] = {"weights_sha256": version.sha256, "steps": version.trained.card.steps}
        chosen.write_report(values["report"], out.stem, version.trained, found | chosen.values(version.trained), ())
    for line in chosen.summary(version.trained):
        typer.echo(line)
    typer.echo(f"{out}  sha256 {version.sha256}")


def import_command(name: str, commands: TrainCommands) -> Callable[..., None]:
    """The function behind `import-weights`."""
    assert commands.card is not None
    card = getattr(import_module(commands.card[0]), commands.card[1])
    labels = next(iter(card.heads.values()))
    several = "; several may have the same class" if len(card.heads) == 1 else ""
    classes = f"Class of each output channel in order, separated by commas{several}."
    kinds = f"Architecture: {', '.join(card.architectures)}."
    file = typer.Argument(help="State dict or checkpoint of the network (.pt, .pth).", show_default=False)
    encoder = "Encoder, named as in segmentation-models-pytorch."
    default = {"encoder": _REQUIRED, "mpp": _REQUIRED} | dict(commands.defaults)
    options = {
        "file": (Annotated[Path, file], _REQUIRED),
        "out": _option(Path, "Weights file to write (.safetensors); its card is written beside it as .json."),
        "encoder": _option(str, encoder, default["encoder"]),
        "mpp": _option(float, "Microns per pixel that it was trained at.", default["mpp"]),
        "classes": _option(str, classes, ",".join(labels)),
        "tile_px": _option(int, "Side of the tiles that it was trained on, px.", 256, min=32),
        **({"architecture": _option(str, kinds, card.architecture)} if len(card.architectures) > 1 else {}),
        "licence": _option(str, "Licence of the weights.", ""),
    }

    def run(file: Path, out: Path, classes: str, **values: Any) -> None:
        from dermatome.training.weights_import import import_weights

        made = import_weights(card, file, out, classes=[label.strip() for label in classes.split(",")], **values)
        typer.echo(f"{out}  sha256 {made.sha256}\nNot imported:")
        for sentence in made.not_carried_over:
            typer.echo(f"  {sentence}")

    return with_signature(
        run,
        options,
        "Import weights that another program trained, and list what is missing.\n\n"
        f"Example: dermatome {name} import-weights model.pt --out w.safetensors --encoder resnet34 --mpp 0.5",
    )
