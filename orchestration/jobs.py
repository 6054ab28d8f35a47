"""The jobs: training, inference, fetching pages, registering genes, refreshing the metrics store."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from assets import nuclei, skin
from assets.partitions import GENES, REQUESTED_BY, STALE
from assets.skin_metrics import skin_metrics
from assets.slide_asset import stale_partitions_of
from dermatome.errors import BadPage, MissingInput
from dermatome.settings import load_settings
from orchestration.requests import (
    NUCLEI,
    SKIN,
    Chain,
    due_slides,
    fill_gaps,
    first_slides,
    missing_slides,
    number_of_slides,
    with_stale_slides,
)
from resources import PathsResource
from resources.dagster_private import is_in_progress, request_backfill, subset_of


def _asset_job(name: str, assets: Sequence[str], description: str) -> dg.JobDefinition:
    return dg.define_asset_job(name, selection=list(assets), description=description)


refresh_metrics = dg.define_asset_job(
    "refresh_metrics",
    selection=dg.AssetSelection.assets(skin_metrics),
    description="Fills the DuckDB file with all tables and views again, from records and Parquet files.",
)
fetch_hpa_pages = _asset_job("fetch_hpa_pages", ["hpa_images"], "Fetches the HPA pages of the chosen genes.")
_ASSET_JOBS = [
    refresh_metrics,
    fetch_hpa_pages,
    _asset_job("cut_training_tiles", ["training_tiles"], "Cuts training tiles from annotated slides."),
    _asset_job(
        "train",
        ["tissue_weights", "tissue_hold_out_scores", "tissue_champion"],
        "Trains one version of the tissue weights, scores it on the hold-out set, and chooses the champion. The run "
        "config sets encoder, loss and length.",
    ),
    _asset_job("search", ["tissue_search"], "Searches training settings; `train` can then train the best trial."),
    _asset_job(
        "train_cells",
        ["cell_weights", "cell_hold_out_scores", "cell_champion"],
        "Trains one version of the cell weights, scores it on the hold-out set, and chooses the champion.",
    ),
    _asset_job(
        "train_nuclei",
        ["nuclei_weights", "nuclei_hold_out_scores", "nuclei_champion"],
        "Trains one version of the nuclei weights, scores it on the hold-out set, and chooses the champion.",
    ),
]


class RegisterGenes(dg.Config):
    """Genes to add."""

    ensembl_ids: list[str] = Field(default=[], description="Ensembl ids, such as ENSG00000186395.")
    file: str | None = Field(
        default=None,
        description="A gene list as HPA's site downloads it (TSV), or a text file with an Ensembl id in each line: "
        "its name in the data root, such as genes.tsv, or its full path.",
    )


@dg.op
def add_genes(context: dg.OpExecutionContext, config: RegisterGenes, paths: PathsResource) -> list[str]:
    """Adds partitions of `hpa_images`; known genes stay as they are."""
    from dermatome.hpa.genes import read_gene_list

    genes = read_gene_list(paths.data_root.path / config.file) if config.file else []
    genes += read_gene_list(config.ensembl_ids) if config.ensembl_ids else []
    if not genes:
        raise BadPage("No gene is given: set `ensembl_ids` or `file` in the run config of register_genes.")
    ids = list(dict.fromkeys(gene.ensembl_id for gene in genes))
    known = set(context.instance.get_dynamic_partitions(str(GENES.name)))
    new = [ensembl_id for ensembl_id in ids if ensembl_id not in known]
    context.instance.add_dynamic_partitions(str(GENES.name), new)
    context.add_output_metadata({"given": len(ids), "new": len(new)})
    return new


@dg.job(description="Adds genes, so that hpa_images can be materialized for them.")
def register_genes() -> None:
    """Reads the gene list and adds a partition of `hpa_images` for each gene."""
    add_genes()


class Inference(dg.Config):
    """The slides to bring up to date."""

    slides: list[str] = Field(
        default=[], description="Names of the slides to choose from; empty: all registered slides with missing results."
    )
    spare_failed: bool = Field(
        default=False,
        description="Retry slides that keep failing only at growing intervals, as the nightly schedule does.",
    )
    stale: bool = Field(
        default=False,
        description="Also request slides whose results are stale, because settings, code, inputs or weights changed. "
        "Their downstream results are requested too, and are reused where nothing changed.",
    )
    max_slides: int = Field(default=20_000, ge=1, description="Largest number of slides requested at a time, ≥ 1.")


def _inference_job(
    name: str, op_name: str, chain: Chain, assets: Sequence[dg.AssetsDefinition], description: str
) -> dg.JobDefinition:
    """A job that requests one backfill of everything that is missing.

    It requests a backfill instead of computing in its own run: each asset then gets runs of its own with hundreds of
    slides, and a bad slide fails alone.
    """

    @dg.op(name=op_name, description=f"Requests a backfill of the missing partitions of {', '.join(chain.stages)}.")
    def request_missing(context: dg.OpExecutionContext, config: Inference, paths: PathsResource) -> None:
        root, instance = paths.data_root, context.instance
        tags = {REQUESTED_BY: chain.requested_by}
        if not config.slides and is_in_progress(instance, tags):
            context.log.info("The last backfill of missing slides is still in progress, so none is requested.")
            return
        stages = chain.possible_stages(root)
        if stages != chain.stages and not config.stale:
            context.log.warning(chain.missing_weights)
        registered = instance.get_dynamic_partitions(chain.partitions)
        if unknown := sorted(set(config.slides) - set(registered)):
            raise MissingInput(
                f"{unknown[0]} is not a registered slide: let a sensor register it, or add its partition by hand."
            )
        missing = missing_slides(instance, root, stages, chain)
        if config.stale:
            settings = load_settings(root.settings)
            stale = {asset.key.to_user_string(): stale_partitions_of(asset, settings, root) for asset in assets}
            # Stages whose weights are missing are included: their results may have been materialized by hand.
            missing = with_stale_slides({stage: missing.get(stage, []) for stage in chain.stages}, stale, registered)
        wanted: Mapping[str, Sequence[str]] = missing
        if config.slides:
            wanted = {stage: [slide for slide in slides if slide in config.slides] for stage, slides in missing.items()}
        elif config.spare_failed:
            wanted = due_slides(root, missing, datetime.now(UTC))
        wanted = first_slides(wanted, config.max_slides)
        count = number_of_slides(wanted)
        context.add_output_metadata({"slides": count, **{stage: len(slides) for stage, slides in wanted.items()}})
        if not count:
            context.log.info("Nothing is missing or stale." if config.stale else "Nothing is missing.")
            return
        filled = {stage: fill_gaps(slides, set(missing[stage]), registered) for stage, slides in wanted.items()}
        title = f"{count} slides with missing{' or stale' if config.stale else ''} results"
        tags |= {STALE: "true"} if config.stale else {}
        backfill_id = request_backfill(instance, subset_of(filled, chain.slides), title, tags)
        context.log.info(f"Requested backfill {backfill_id} of {count} slides.")

    @dg.job(name=name, description=description)
    def inference() -> None:
        request_missing()

    return inference


infer = _inference_job(
    "infer",
    "request_missing",
    SKIN,
    skin.OF_SLIDES,
    "Images → masks → cells → layers, for all slides with missing results, as a backfill.",
)
infer_nuclei = _inference_job(
    "infer_nuclei",
    "request_missing_nuclei",
    NUCLEI,
    nuclei.OF_SLIDES,
    "H&E slides → maps → TIL scores, for all slides with missing results, as a backfill.",
)

JOBS = [*_ASSET_JOBS, infer, infer_nuclei, register_genes]
