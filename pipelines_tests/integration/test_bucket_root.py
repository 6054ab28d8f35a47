"""A data root in a bucket: every asset of a slide with the production wiring, from the inbox to the rows."""

import json

import dagster as dg
import duckdb
import pytest
import torch

from assets.partitions import ANNOTATED_SLIDES, SLIDES
from dermatome.classes import TISSUE_LABELS, TissueClass
from dermatome.labels.palette import Palette, classes_to_rgb
from dermatome.reports.figures import png_bytes
from dermatome.slides.register import read_sources
from dermatome.storage import object_store
from dermatome.storage.files import local_copy, whole_folder, write_whole
from dermatome.storage.layout import CHAMPION, RECORD_FILE, WEIGHTS_FILE
from dermatome.storage.record import StageRecord, read_record, write_record
from dermatome.synthetic.hpa_pages import ToyImage, gene_page_xml
from dermatome.synthetic.hpa_server import ToyAtlas
from dermatome.synthetic.skin import toy_slide
from dermatome.training.unet import build_network
from dermatome.training.weights import WeightsCard, save_weights
from orchestration import arrivals, sensors
from orchestration.definitions import build_defs
from orchestration.requests import PER_SLIDE
from pipelines_tests.integration.test_sensors import asked_for, evaluate

GENE = "ENSG00000186847"


@pytest.fixture
def instance():
    with dg.instance_for_test() as found:
        yield found


def record(asset, partition, values):
    return StageRecord(
        asset=asset,
        partition=partition,
        outcome="made",
        data_version="v",
        values=values,
        fingerprint="f",
        code_version="1",
        inputs={},
        settings={},
    )


def promote_all_epidermis(root):
    """A champion that calls everything epidermis."""
    card = WeightsCard("resnet18", (8, 8, 8, 8, 8), 1.0, (0.5, 2.0), 2.0, 0.5)
    network = build_network(card.encoder, len(TISSUE_LABELS), card.decoder_channels)
    head = network.segmentation_head[0]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([9.0 * (label == TissueClass.EPIDERMIS) for label in range(len(TISSUE_LABELS))]))
    with whole_folder(root.folder("tissue_weights", "v001")) as folder:
        sha256 = save_weights(folder / WEIGHTS_FILE, network.state_dict(), card)
        write_record(folder / RECORD_FILE, record("tissue_weights", "v001", {"weights_sha256": sha256}))
    chosen = {"version": "v001", "weights_sha256": sha256}
    write_record(root.record("tissue_champion", CHAMPION), record("tissue_champion", CHAMPION, chosen))


def run(root, instance, asset, *keys):
    job = build_defs(root.path).resolve_implicit_global_asset_job_def()
    ends = {}
    if keys:
        ends = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
    return job.execute_in_process(
        instance=instance, asset_selection=[dg.AssetKey(asset)], tags=ends, raise_on_error=not keys
    )


def test_slides_of_the_inbox_become_rows(bucket_root, instance, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    root = bucket_root
    write_whole(root.settings, b'cell_weights = "toy"\n[engine]\nworkers = 1\n')
    promote_all_epidermis(root)
    for name, data in {"good": toy_slide(1, size_px=192).jpeg(), "torn": b"\xff\xd8\xff no image"}.items():
        write_whole(root.inbox / f"{name}.jpg", data)
    monkeypatch.setattr(arrivals, "_SETTLED_S", 0)
    asked = asked_for(evaluate(sensors.image_folder, root, instance))
    assert asked == {asset: ["good", "torn"] for asset in PER_SLIDE}
    assert read_sources(root.slide_sources)["good"].location == f"{root.path}/inbox/good.jpg"
    assert evaluate(sensors.image_folder, root, instance).skip_message

    assert not run(root, instance, "slide_images", "good", "torn").success
    assert root.made("slide_images") == ["good"]
    assert root.failed("slide_images") == {"torn"}
    for asset in PER_SLIDE[1:]:
        done = run(root, instance, asset, "good")
        assert done.success
        (event,) = done.asset_materializations_for_node(asset)
        assert "base64" in event.metadata["preview"].md_str
        assert root.made(asset) == ["good"]
    assert read_record(root.record("cell_masks", "good")).values["cells"] > 0

    again = run(root, instance, "cell_masks", "good")
    (event,) = again.asset_materializations_for_node("cell_masks")
    assert event.metadata["reused"].value

    store = run(root, instance, "skin_metrics")
    assert [check.passed for check in store.get_asset_check_evaluations()] == [True]
    with local_copy(root.store) as file, duckdb.connect(str(file), read_only=True) as rows:
        assert rows.execute("select slide, count(*) > 0 from cells group by all").fetchall() == [("good", True)]
        assert rows.execute("select partition from failures").fetchall() == [("torn",)]
    (event,) = run(root, instance, "skin_metrics").asset_materializations_for_node("skin_metrics")
    assert f"{root.folder('tissue_weights', 'v001')}/history.parquet" in event.metadata["files_missing"].value["first"]
    assert event.metadata["partitions_read"].value == 1, "only the made-up training, which lacks files"

    assert list(tmp_path.iterdir()) == [], "nothing is written to a folder called s3:"
    unwanted = [name for name in object_store.sizes_below(root.path) if "/." in name or name.startswith(".")]
    assert unwanted == []


def test_pages_and_training_tiles(bucket_root, instance):
    root = bucket_root
    image = ToyImage("373", "1_A_1_1", patient_id="1")
    with ToyAtlas() as atlas:
        atlas.pages = {GENE: gene_page_xml("KRT14", GENE, atlas.url, [image])}
        write_whole(
            root.settings,
            f'[hpa]\nbase_url = "{atlas.url}"\narchive_urls = []\nallowed_hosts = ["127.0.0.1"]\n'.encode(),
        )
        instance.add_dynamic_partitions("genes", [GENE])
        for _ in range(2):  # the second time the page is the one that is there
            assert run(root, instance, "hpa_images", GENE).success
    evaluate(sensors.new_hpa_images, root, instance)
    assert instance.get_dynamic_partitions(str(SLIDES.name)) == ["373-1_A_1_1"]

    for name, data in annotation().items():
        write_whole(root.annotations / "he-1" / name, data)
    tick = evaluate(sensors.annotation_folder, root, instance)
    (request,) = tick.dynamic_partitions_requests
    assert list(request.partition_keys) == ["he-1"]
    assert instance.get_dynamic_partitions(str(ANNOTATED_SLIDES.name)) == ["he-1"]
    assert run(root, instance, "training_tiles", "he-1").success
    with root.local("training_tiles", "he-1") as folder:
        assert len(list((folder / "images").iterdir())) == 4


def annotation():
    """A small annotated slide, as people put it down."""
    palette = Palette.shipped("dermatome")
    toy = toy_slide(3, size_px=160)
    rois = {"rois": [{"name": "r", "top": 0, "left": 0, "height": 160, "width": 160, "divide": 2}]}
    return {
        "he.png": png_bytes(toy.slide.pixels),
        "mask.png": png_bytes(classes_to_rgb(toy.mask, palette)),
        "rois.json": json.dumps(rois).encode(),
        "palette.json": json.dumps(palette.to_json()).encode(),
    }
