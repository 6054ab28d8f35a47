"""`nuclei_ablation`: what boundary weights and immune sampling are worth, each left out in a training of its own."""

import contextlib
from pathlib import Path

import dagster as dg
from pydantic import Field

from assets.nuclei.nuclei_patches import nuclei_patches
from assets.nuclei.training_config import NucleusTrainingConfig
from assets.one import make_one
from dermatome.errors import MissingInput
from dermatome.storage.layout import CHAMPION
from dermatome.storage.record import StageResult, made_files
from resources import ComputeResource, PathsResource
from resources.settings import as_plain


class AblationConfig(NucleusTrainingConfig):
    """A training's run config, and which variants of it are trained."""

    variants: list[str] = Field(
        default=["as_given", "no_boundary_weighting", "no_immune_sampling"],
        description="The first is what the others are held against; also no_ternary_dice, no_focus.",
    )


@dg.asset(
    deps=[dg.AssetDep(nuclei_patches, partition_mapping=dg.AllPartitionMapping())],
    pool="gpu",
    code_version="2",
    group_name="nuclei_training",
    kinds={"pytorch"},
)
def nuclei_ablation(
    context: dg.AssetExecutionContext, config: AblationConfig, paths: PathsResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """The variants one after another, on the same patches, seed and length: `ablation.parquet`, `.csv`, `.png`."""
    from dermatome.nuclei.maps.ablation import VARIANTS, make_ablation
    from dermatome.nuclei.maps.training_files import choose_patches
    from dermatome.nuclei.maps.training_settings import nucleus_settings
    from dermatome.training.loop import drop_checkpoints

    root = paths.data_root
    checkpoints = root.checkpoints("nuclei_ablation", CHAMPION)
    given = {name: value for name, value in config.given().items() if name != "variants"}
    settings = nucleus_settings(given)
    with contextlib.ExitStack() as stack:
        cases = config.cases or root.made("nuclei_patches")
        if not cases:
            raise MissingInput("There are no patches of nuclei yet: materialize nuclei_patches for cases first.")
        folders = {case: stack.enter_context(made_files(root, "nuclei_patches", case)) for case in cases}
        split = choose_patches([folder for _, folder in folders.values()], (), settings)

        def make(folder: Path) -> StageResult:
            return make_ablation(
                split.train,
                split.validation,
                folder,
                settings,
                compute.choose(),
                config.variants,
                checkpoints=checkpoints,
                models_folder=root.models,
                say=context.log.info,
            )

        done = make_one(
            context,
            root,
            CHAMPION,
            make=make,
            inputs={case: record.data_version for case, (record, _) in folders.items()},
            settings={**as_plain(settings), "variants": config.variants},
        )
    for name in VARIANTS:
        drop_checkpoints(checkpoints / name)
    return done
