"""The jobs: the two halves (train, infer), fetching pages, and asking for what is missing."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster._core.execution.backfill import PartitionBackfill
from dagster._core.utils import make_new_backfill_id
from dagster._time import get_current_timestamp
from pydantic import Field

from assets.partitions import BY_INFER, BY_INFER_NUCLEI, GENES, NUCLEI_SLIDES, REQUESTED_BY, SLIDES
from dermatome.errors import MissingInput
from dermatome.storage.layout import DataRoot
from orchestration.requests import (
    NUCLEI_PER_SLIDE,
    at_most,
    due_slides,
    is_busy,
    missing_slides,
    nuclei_stages_possible,
    stages_possible,
    subset_of,
    with_gaps_filled,
)
from resources import PathsResource

fetch_hpa_pages = dg.define_asset_job(
    "fetch_hpa_pages", selection=["hpa_images"], description="HPA pages of the chosen genes."
)
cut_training_tiles = dg.define_asset_job(
    "cut_training_tiles",
    selection=["training_tiles"],
    description="Training tiles from annotated slides.",
)
train = dg.define_asset_job(
    "train",
    selection=["tissue_weights", "tissue_hold_out_scores", "tissue_champion"],
    description="One half: tiles → weights → hold-out set → champion. Its run config chooses encoder, loss and length.",
)
train_cells = dg.define_asset_job(
    "train_cells",
    selection=["cell_weights", "cell_hold_out_scores", "cell_champion"],
    description="The same for cells: annotated cells → weights → hold-out set → champion.",
)
train_nuclei = dg.define_asset_job(
    "train_nuclei",
    selection=["nuclei_weights"],
    description="One version of the network of nuclei. Its run config chooses encoder, loss, sampling and length.",
)
refresh_metrics = dg.define_asset_job(
    "refresh_metrics",
    selection=["skin_metrics"],
    description="The DuckDB file, filled again from records and tables.",
)


class RegisterGenes(dg.Config):
    """Genes to add: Ensembl ids, or a gene list as HPA's site downloads it (TSV), or a text file of ids."""

    ensembl_ids: list[str] = []
    file: str | None = None


@dg.op
def add_genes(context: dg.OpExecutionContext, config: RegisterGenes) -> list[str]:
    """Adds the partitions of `hpa_images`; genes that are known already stay as they are."""
    from pathlib import Path

    from dermatome.errors import BadPage
    from dermatome.hpa.genes import read_gene_list

    genes = read_gene_list(Path(config.file)) if config.file else []
    genes += read_gene_list(config.ensembl_ids) if config.ensembl_ids else []
    if not genes:
        raise BadPage("No gene was given: set `ensembl_ids` or `file` in the run config of register_genes.")
    ids = list(dict.fromkeys(gene.ensembl_id for gene in genes))
    known = set(context.instance.get_dynamic_partitions(str(GENES.name)))
    new = [ensembl_id for ensembl_id in ids if ensembl_id not in known]
    context.instance.add_dynamic_partitions(str(GENES.name), new)
    context.add_output_metadata({"given": len(ids), "new": len(new)})
    return new


@dg.job(description="Adds genes, so that hpa_images can be materialized for them.")
def register_genes() -> None:
    """Gene list → partitions."""
    add_genes()


class Inference(dg.Config):
    """Which slides to bring up to date."""

    slides: list[str] = Field(default=[], description="None: every registered slide that lacks something.")
    spare_failed: bool = Field(
        default=False,
        description="Slides that keep failing are tried ever more seldom, as the nightly schedule has it.",
    )
    max_slides: int = Field(default=20_000, description="At most so many at a time.")


@dg.op
def request_missing(context: dg.OpExecutionContext, config: Inference, paths: PathsResource) -> None:
    """Asks the backfill daemon for every per-slide partition of skin that is not there."""
    root = paths.data_root
    _request(context, config, root, stages_possible(root), SLIDES, BY_INFER)


@dg.op
def request_missing_nuclei(context: dg.OpExecutionContext, config: Inference, paths: PathsResource) -> None:
    """The same of nuclei."""
    root = paths.data_root
    stages = nuclei_stages_possible(root)
    if stages != NUCLEI_PER_SLIDE:
        context.log.warning(
            "There is no network of nuclei yet, or not the one that settings.toml names, so nuclei are not looked for: "
            "materialize nuclei_weights for a version, or correct nuclei_weights in settings.toml."
        )
    _request(context, config, root, stages, NUCLEI_SLIDES, BY_INFER_NUCLEI)


def _request(
    context: dg.OpExecutionContext,
    config: Inference,
    root: DataRoot,
    stages: Sequence[str],
    partitions: dg.DynamicPartitionsDefinition,
    requested_by: str,
) -> None:
    """Asks for one backfill of what is missing of ``stages``: new slides, and ones that failed.

    One backfill rather than one run: there each asset has runs of its own, of hundreds of slides, and a bad slide stops
    nothing but itself.
    """
    if not config.slides and is_busy(context.instance, requested_by):
        context.log.info("The last backfill of missing slides is still going on; nothing is asked for.")
        return
    lacking = missing_slides(context.instance, root, stages, partitions)
    missing: Mapping[str, Sequence[str]] = lacking
    registered = context.instance.get_dynamic_partitions(str(partitions.name))
    if config.slides:
        if strangers := sorted(set(config.slides) - set(registered)):
            raise MissingInput(
                f"{strangers[0]} is not a registered slide: let a sensor register it, or add its partition."
            )
        wanted = set(config.slides)
        missing = {stage: [slide for slide in slides if slide in wanted] for stage, slides in missing.items()}
    elif config.spare_failed:
        missing = due_slides(root, missing, datetime.now(UTC))
    missing, count = at_most(missing, config.max_slides)
    context.add_output_metadata({"slides": count, **{stage: len(slides) for stage, slides in missing.items()}})
    if not count:
        context.log.info("Nothing is missing.")
        return
    subset = subset_of(
        {stage: with_gaps_filled(slides, set(lacking[stage]), registered) for stage, slides in missing.items()},
        partitions,
    )
    backfill_id = make_new_backfill_id()
    context.instance.add_backfill(
        PartitionBackfill.from_asset_graph_subset(
            backfill_id=backfill_id,
            backfill_timestamp=get_current_timestamp(),
            tags={REQUESTED_BY: requested_by},
            dynamic_partitions_store=context.instance,
            asset_graph_subset=subset,
            title=f"{count} slides with something missing",
            description=None,
            run_config=None,
        )
    )
    context.log.info(f"Asked for backfill {backfill_id} of {count} slides.")


@dg.job(
    description="The other half: images → masks → cells → layers, for all slides that lack something, as a backfill."
)
def infer() -> None:
    """Missing partitions → one backfill."""
    request_missing()


@dg.job(description="The same for nuclei: H&E slides → maps → TIL scores.")
def infer_nuclei() -> None:
    """Missing partitions → one backfill."""
    request_missing_nuclei()


JOBS = [
    fetch_hpa_pages,
    cut_training_tiles,
    train,
    train_cells,
    train_nuclei,
    infer,
    infer_nuclei,
    refresh_metrics,
    register_genes,
]
