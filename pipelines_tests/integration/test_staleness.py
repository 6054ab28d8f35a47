"""What is stale, as the UI shows it: the check of each asset of slides, what `infer` requests, what is proposed."""

import dagster as dg
import pytest

from assets.partitions import ANNOTATED_SLIDES, GENES, SLIDES, TRAINING_VERSIONS
from assets.skin import gene_profiles
from assets.slide_asset import stale_partitions_of
from dermatome.hpa.pages import parse_page
from dermatome.hpa.records import RECORDS_FILE, write_records
from dermatome.settings import deciding_settings, load_settings
from dermatome.storage.layout import FIGURE_FILE
from dermatome.storage.record import StageRecord, file_facts, fingerprint, write_record
from dermatome.synthetic.hpa_pages import ToyImage, gene_page_xml
from orchestration.definitions import build_defs
from pipelines_tests.asset_runs import run
from pipelines_tests.integration.test_sensors import champion_made
from pipelines_tests.records import put_record
from resources.settings import decided_names

CHECKS = """
query ($asset: String!) { assetNodes(assetKeys: [{path: [$asset]}]) {
  assetChecksOrError { ... on AssetChecks { checks {
    name
    executionForLatestMaterialization { status evaluation {
      description metadataEntries { label ... on IntMetadataEntry { intValue } }
    } }
  } } }
} }
"""


def made(root, instance, slide, asset="epidermis_layers", version="now", **inputs):
    """Results of a slide that the asset's present code and settings gave, or another code version."""
    defs = build_defs(root.path)
    node = defs.resolve_asset_graph().get(dg.AssetKey(asset))
    version = node.code_version if version == "now" else version
    settings = deciding_settings(load_settings(root.settings), decided_names(node.metadata), root)
    (folder := root.folder(asset, slide)).mkdir(parents=True)
    (folder / FIGURE_FILE).write_bytes(b"a figure")
    record = StageRecord(
        asset=asset, partition=slide, fingerprint=fingerprint(version, inputs, settings), code_version=version,
        inputs=inputs, settings=settings, outcome="layers", data_version=f"{asset} of {slide}", values={},
        files=file_facts(folder),
    )  # fmt: skip
    write_record(root.record(asset, slide), record)
    instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=slide))


@pytest.fixture
def slides(root, instance):
    """One slide is current; of the others the code, the mask, and by `settings_changed` the settings are others now."""
    instance.add_dynamic_partitions(SLIDES.name, ["current", "code", "mask"])
    for slide in ("current", "code", "mask"):
        made(root, instance, slide, "slide_images")
        made(root, instance, slide, "epidermis_masks", slide_images=f"slide_images of {slide}")
        made(root, instance, slide, "cell_masks", epidermis_masks=f"epidermis_masks of {slide}")
    made(root, instance, "current", epidermis_masks="epidermis_masks of current")
    made(root, instance, "code", version="0", epidermis_masks="epidermis_masks of code")
    made(root, instance, "mask", epidermis_masks="another mask")


def up_to_date(ask, asset):
    """The status that the UI shows of an asset's check `up_to_date`, and its evaluation."""
    checks = ask(CHECKS, asset=asset)["assetNodes"][0]["assetChecksOrError"]["checks"]
    (found,) = [check["executionForLatestMaterialization"] for check in checks if check["name"] == "up_to_date"]
    return found["status"], found["evaluation"]


def test_the_check_counts_stale_partitions_before_and_after_a_setting_changes(slides, root, instance, ask):
    def shown():
        job = build_defs(root.path).resolve_implicit_global_asset_job_def()
        checks = {dg.AssetCheckKey(dg.AssetKey("epidermis_layers"), "up_to_date")}
        assert job.get_subset(asset_selection=set(), asset_check_selection=checks).execute_in_process(instance=instance)
        status, evaluation = up_to_date(ask, "epidermis_layers")
        entries = {entry["label"]: entry.get("intValue") for entry in evaluation["metadataEntries"]}
        return status, entries["stale_partitions"]

    assert shown() == ("FAILED", 2)
    root.settings.write_text("[layers]\nlayer_um = 9.0\n")
    assert shown() == ("FAILED", 3)


@pytest.mark.parametrize("champion", [True, False])  # False: the masks were materialized by hand, with the starter
@pytest.mark.parametrize(("stale", "requested"), [(False, {}), (True, {"epidermis_layers": ["code", "mask"]})])
def test_infer_requests_stale_slides_if_asked(slides, root, instance, stale, requested, champion):
    if champion:
        champion_made(root)
    job = build_defs(root.path).resolve_job_def("infer")
    config = {"ops": {"request_missing": {"config": {"stale": stale}}}}
    assert job.execute_in_process(instance=instance, run_config=config).success
    found = {}
    for backfill in instance.get_backfills():
        for key, subset in backfill.asset_backfill_data.target_subset.partitions_subsets_by_asset_key.items():
            found[key.to_user_string()] = sorted(subset.get_partition_keys())
    assert found == requested


STALE = """
query ($asset: String!, $key: String!) { assetNodes(assetKeys: [{path: [$asset]}]) {
  staleStatus(partition: $key) staleCauses(partition: $key) { reason }
} }
"""


def test_a_training_is_not_stale_when_its_tiles_change(instance, ask):
    instance.add_dynamic_partitions(TRAINING_VERSIONS.name, ["v001"])
    instance.add_dynamic_partitions(ANNOTATED_SLIDES.name, ["a1"])
    before = {
        "dagster/code_version": "1",
        "dagster/data_version": "w",
        "dagster/input_data_version/training_tiles": "x",
        "dagster/input_event_pointer/training_tiles": "NULL",
    }
    instance.report_runless_asset_event(dg.AssetMaterialization("tissue_weights", partition="v001", tags=before))
    instance.report_runless_asset_event(dg.AssetMaterialization("training_tiles", partition="a1"))
    assert ask(STALE, asset="tissue_weights", key="v001")["assetNodes"] == [{"staleStatus": "FRESH", "staleCauses": []}]


def test_a_changed_slide_makes_only_its_own_gene_stale_and_then_the_atlas(root, instance, ask):
    genes = {f"ENSG0000000000{number}": f"1-{number}" for number in (1, 2)}
    instance.add_dynamic_partitions(GENES.name, list(genes))
    instance.add_dynamic_partitions(SLIDES.name, list(genes.values()))
    for gene, slide in genes.items():
        page = parse_page(gene_page_xml("G", gene, "http://127.0.0.1", [ToyImage(*slide.split("-"))]))
        write_records(page.records, root.folder("hpa_images", gene) / RECORDS_FILE)
        values = {"gene": "G", "release": "23", "page_url": "", "licence": "l"}
        put_record(root, "hpa_images", gene, outcome="images", values=values)
        instance.report_runless_asset_event(dg.AssetMaterialization("hpa_images", partition=gene))
        assert run(root, instance, "gene_profiles", key=gene).success
    assert stale_partitions_of(gene_profiles, load_settings(root.settings), root) == {}
    put_record(root, "epidermis_layers", "1-1", outcome="no_epidermis")
    instance.report_runless_asset_event(dg.AssetMaterialization("epidermis_layers", partition="1-1"))
    stale = stale_partitions_of(gene_profiles, load_settings(root.settings), root)
    assert stale == {"ENSG00000000001": "changed: epidermis_layers"}
    found = ask(STALE, asset="gene_profiles", key="ENSG00000000002")["assetNodes"]
    assert found == [{"staleStatus": "FRESH", "staleCauses": []}]
    assert run(root, instance, "skin_atlas").success
    for gene, expected in (("ENSG00000000002", "SUCCEEDED"), ("ENSG00000000001", "FAILED")):
        assert run(root, instance, "gene_profiles", key=gene).success
        status, evaluation = up_to_date(ask, "skin_atlas")
        assert status == expected
    assert evaluation["description"] == "It is stale (changed: gene_profiles): materialize it."
