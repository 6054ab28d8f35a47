"""What the three assets of training versions share: run configs built from the settings, and the training itself."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import dagster as dg
from pydantic import Field, create_model

from assets.materialize import CODE_VERSION, materialize_one
from dermatome.registry.model_kinds import ModelKind
from dermatome.storage.layout import DataRoot
from dermatome.storage.settings_model import SettingsModel
from dermatome.training.encoders import ENCODERS
from resources import ComputeResource


class TrainingConfig(dg.Config):
    """Fields that every training's run config has besides its settings."""

    gpus: int = Field(default=1, ge=1, description="Number of GPUs that share the micro-batches of a step.")
    continue_from: str | None = Field(
        default=None,
        description="A version or weights file to fine-tune; v001_cont1 is fine-tuned from v001. Settings left at "
        "their defaults here are taken from it if its network depends on them.",
    )

    def given(self) -> dict[str, Any]:
        """The settings that differ from their defaults; the launchpad fills in all defaults."""
        return _changes(self.model_dump(include=set(self._settings)), type(self)().model_dump())

    _settings: tuple[str, ...] = ()


def _changes(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _changes(value, defaults[name]) if isinstance(value, dict) else value
        for name, value in values.items()
        if value != defaults[name]
    }


def training_config(
    name: str, base: type[TrainingConfig], settings: type[SettingsModel], without: Sequence[str] = ()
) -> Any:
    """A run config with a field for each setting except those in ``without``."""
    made = config_of(settings, base=base, name=name, without=[*without, "checkpoint_seconds"])
    made._settings = tuple(field for field in made.model_fields if field not in base.model_fields)
    return made


def config_of(
    settings: type[SettingsModel],
    defaults: SettingsModel | None = None,
    *,
    base: type[dg.Config] = dg.Config,
    name: str | None = None,
    without: Sequence[str] = (),
) -> Any:
    """A run config with a field for each setting: its type or choices, default, and range in its description."""
    values = defaults or settings()
    fields: dict[str, Any] = {}
    for setting, info in settings.model_fields.items():
        if setting in without:
            continue
        kind, default = info.annotation, getattr(values, setting)
        if isinstance(default, SettingsModel):
            kind = config_of(type(default), default, name=f"{name or settings.__name__}_{setting}")
            default = kind()
        elif setting == "encoder" and isinstance(default, str):
            kind = Literal[tuple(sorted(ENCODERS))]
        elif isinstance(default, tuple):
            kind, default = list[get_args(kind)[0]], list(default)  # type: ignore[misc]
        limits = [text for mark in info.metadata for text in _limits(mark)]
        meaning = " ".join([str(info.description), *([f"Allowed: {', '.join(limits)}."] if limits else [])])
        fields[setting] = (kind, Field(default=default, description=meaning))
    made = create_model(name or settings.__name__, __base__=base, __module__=__name__, **fields)
    made.__doc__ = base.__doc__ if base is not dg.Config else settings.__doc__
    return made


def _limits(mark: Any) -> list[str]:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "multiple_of": "multiples of"}
    return [f"{sign} {getattr(mark, name)}" for name, sign in signs.items() if getattr(mark, name, None) is not None]


def not_held_out(root: DataRoot, kind: ModelKind, names: Sequence[str]) -> list[str]:
    """The slides, sets or cases among ``names`` that a training may use: those outside the hold-out set."""
    from dermatome.registry.hold_out import hold_out_sources

    held_out = hold_out_sources(root, kind)
    return [name for name in names if name not in held_out]


_CHECKS = {
    "no_leakage": "No patient, slide or picture is in both training and test data of this version or its ancestors.",
    "trained_enough": "It was trained for at least one epoch, on samples that contain what it has to learn.",
}


def weights_asset(
    kind: ModelKind, partitions_def: dg.PartitionsDefinition, group_name: str, *, code_version: str, deps: Sequence[Any]
) -> Any:
    """Declares the asset of a kind's training versions, with its checks."""
    return dg.asset(
        name=kind.weights,
        group_name=group_name,
        deps=deps,
        metadata={CODE_VERSION: code_version},
        partitions_def=partitions_def,
        check_specs=[
            dg.AssetCheckSpec(check, asset=kind.weights, partitions_def=partitions_def, description=description)
            for check, description in _CHECKS.items()
        ],
        pool="gpu",
        kinds={"pytorch"},
    )


def make_version(
    context: dg.AssetExecutionContext,
    root: DataRoot,
    task: Any,
    sources: Mapping[Path, str],
    settings: Mapping[str, Any],
    config: TrainingConfig,
    compute: ComputeResource,
    *,
    recorded: Mapping[str, Any] = {},
    prepare: Callable[[Any], Any] = lambda task: task,
    **more: Any,
) -> dg.MaterializeResult:
    """Trains the version of the run's partition, and stores its files and record.

    Args:
        context: of the asset.
        root: the data root.
        task: class of the training task.
        sources: folders of the samples, with the data version of each; empty if they were drawn for this version.
        settings: settings that differ from those of the parent network and from the defaults.
        config: the run config.
        compute: device and precision.
        recorded: further settings that decide the result.
        prepare: changes the task before training.
        more: see :func:`assets.materialize.materialize_one`.
    """
    from dermatome.registry.hold_out import hold_out_rows
    from dermatome.registry.version import lineage_of_version, train_version
    from dermatome.training.settings import settings_from
    from dermatome.training.trainer import drop_checkpoints

    kind, version = task.layout.kind, context.partition_key
    checkpoints = root.checkpoints(kind.weights, version)
    lineage = lineage_of_version(task, root, version, config.continue_from)
    chosen = settings_from(task.settings_class, settings if lineage is None else lineage.fill_in(settings))

    def make(folder: Path) -> Any:
        work = prepare(task.choose(list(sources), (), chosen, lineage))
        return train_version(
            work,
            folder,
            version,
            compute.choose(),
            lineage=lineage,
            hold_out=hold_out_rows(root, kind),
            checkpoint_dir=checkpoints,
            on_epoch=lambda row, share: context.log.info(f"{work.epoch_text(row)}, {share:.0%} done"),
            processes=config.gpus,
            models_folder=root.models,
        )

    inputs = {folder.name: data_version for folder, data_version in sources.items() if data_version}
    done = materialize_one(
        context,
        root,
        make=make,
        inputs=inputs if lineage is None else {**inputs, "parent": lineage.weights.sha256[:32]},
        settings={**chosen.model_dump(), **recorded},
        # With a single slide no split can avoid leakage. That is a limit of the data, so it is a warning.
        warn=lambda result: bool(result.values["one_slide_only"]),
        **more,
    )
    drop_checkpoints(checkpoints)
    return done
