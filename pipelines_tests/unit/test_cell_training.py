"""Training of cell networks: annotations, flows that rotate with their crop, Cellpose's loss, resuming, fine-tuning."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dermatome.errors import BadAnnotation, BadSetting, BadWeights, MissingInput
from dermatome.geometry import Size
from dermatome.inference.compute import Compute
from dermatome.labels.annotation_files import read_label_image
from dermatome.registry.manifest import manifest_path, read_manifest
from dermatome.registry.version import lineage_named, train_file
from dermatome.skin.cells.annotations import find_annotated
from dermatome.skin.cells.crops import PreparedCells, flow_targets, random_crop
from dermatome.skin.cells.network import load_cell_network, open_cells
from dermatome.skin.cells.scores import CellScores, mean_precision
from dermatome.skin.cells.task import CellTask, CellTraining, cell_loss
from dermatome.storage.files import sha256_file
from dermatome.synthetic.train_networks import CELLS, cells_task
from dermatome.training.settings import settings_from
from dermatome.training.trainer import train
from dermatome.training.weights import save_weights
from pipelines_tests.annotated_cells import SIDE_PX, image_of, labels_of, write_set

CPU = Compute(device="cpu", precision="fp32", threads=1, device_name="cpu")
TINY = CellTraining(
    nbase=(2, 4, 4, 4, 8), diameter_px=16.0, crop_px=64, batch=2, epochs=2, epoch_steps=2, checkpoint_seconds=0.0
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return find_annotated(write_set(tmp_path_factory.mktemp("cells") / "set", range(3)))


def test_what_is_stated_about_images_comes_with_them(tmp_path):
    labels = labels_of(5)
    Image.fromarray(image_of(labels)).save(tmp_path / "a.png")
    Image.fromarray(labels.astype(np.uint16) * 3).save(tmp_path / "a_masks.tif")
    (found,) = find_annotated(tmp_path)
    slide, read = found.read()
    assert (slide.mpp, read.max()) == (0.5, 16)
    assert ((read > 0) == (labels > 0)).all()
    square = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ((9, 9), (30, 9), (30, 30), (9, 30)))
    regions = f"<Regions><Region><Vertices>{square}</Vertices></Region></Regions>"
    (tmp_path / "a_masks.tif").unlink()
    (tmp_path / "a.xml").write_text(
        f'<Annotations MicronsPerPixel="0.25"><Annotation>{regions}</Annotation></Annotations>'
    )
    (stated,) = find_annotated(tmp_path)
    assert stated.read()[0].mpp == 0.25
    (tmp_path / "about.json").write_text('{"mpp": 0.3, "licence": "CC0", "patients": {"a": "P1"}}')
    (last,) = find_annotated(tmp_path)
    assert (last.read()[0].mpp, last.licence, last.group, last.patient) == (0.3, "CC0", "P1", "P1")


def test_files_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(BadSetting, match="five numbers"):
        TINY.changed(nbase=(3, 4, 4, 4, 4))
    with pytest.raises(MissingInput, match="no folder"):
        find_annotated(tmp_path / "none")
    with pytest.raises(MissingInput, match="no annotated images"):
        find_annotated(tmp_path)
    labels = labels_of(0)
    Image.fromarray(image_of(labels)).save(tmp_path / "a.png")
    with pytest.raises(MissingInput, match="no cells beside"):
        find_annotated(tmp_path)
    (tmp_path / "a.geojson").write_text('{"features": []}')
    with pytest.raises(BadAnnotation, match="no cell inside its image"):
        find_annotated(tmp_path)[0].read()
    Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "a_labels.png")
    with pytest.raises(BadAnnotation, match="same size"):
        read_label_image(tmp_path / "a_labels.png", Size(9, 9))
    Image.fromarray(image_of(labels)).save(tmp_path / "rgb.png")
    with pytest.raises(BadAnnotation, match="contains colours"):
        read_label_image(tmp_path / "rgb.png", Size(SIDE_PX, SIDE_PX))
    (tmp_path / "cut.png").write_bytes((tmp_path / "a_labels.png").read_bytes()[:200])
    with pytest.raises(BadAnnotation, match="damaged or not a label image"):
        read_label_image(tmp_path / "cut.png", Size(SIDE_PX, SIDE_PX))
    (tmp_path / "about.json").write_text('{"mpp": -1}')
    with pytest.raises(BadAnnotation, match="about.json is not usable"):
        find_annotated(tmp_path)


def test_flows_rotate_with_their_crop():
    labels = labels_of(1)
    # Each cell has a brightness of its own, which identifies it in the crop.
    image = PreparedCells((labels / 20).astype(np.float32), flow_targets(labels))
    for seed in range(4):
        shown, truth = random_crop(image, 80, np.random.default_rng(seed), zoom=0.0, gain=0.0, noise=0.0)
        cells = np.where(truth[0] > 0, np.rint(shown * 20), 0).astype(np.int32)
        at_edge = np.unique(np.concatenate([cells[0], cells[-1], cells[:, 0], cells[:, -1]]))
        small = np.flatnonzero(np.bincount(cells.ravel()) < 100)  # where the brightness of an edge is another cell's
        cells[np.isin(cells, [*at_edge, *small])] = 0
        again = flow_targets(cells).astype(np.float32)
        cosine = truth[1] * again[1] + truth[2] * again[2]
        assert np.median(cosine[cells > 0]) > 0.9
        assert not truth[1:, truth[0] == 0].any()


def test_the_loss_is_cellposes():
    from cellpose.train import _loss_fn_seg

    rng = np.random.default_rng(0)
    found = torch.from_numpy(rng.normal(0, 2, (2, 3, 32, 32)).astype(np.float32))
    truth = np.stack([flow_targets(labels_of(k))[:, :32, :32] for k in range(2)]).astype(np.float32)
    theirs = _loss_fn_seg(truth, found, torch.device("cpu"))
    torch.testing.assert_close(cell_loss(found, torch.from_numpy(truth)), theirs)


def test_average_precision_is_the_mean_over_images(images):
    scores = [
        CellScores(images[0], {0.5: value, 0.75: None, 0.9: 0.0}, 1, 1, np.zeros((1, 1), np.int32))
        for value in (0.2, 0.6, None)
    ]
    assert mean_precision(scores) == {"ap_50": pytest.approx(0.4), "ap_75": None, "ap_90": 0.0}
    assert mean_precision([]) == {"ap_50": None, "ap_75": None, "ap_90": None}


def test_it_is_fine_tuned_from_a_file_and_writes_what_loads(images, tmp_path):
    folder = images[0].image_path.parent
    short = TINY.changed(epochs=1, epoch_steps=1)
    first = train_file(CellTask.choose([folder], (), short), tmp_path / "w.safetensors", CPU, name="first")
    read = open_cells(tmp_path / "w.safetensors")
    assert (read.sha256, read.card.name, read.card.nbase) == (first.sha256, "first", (2, 4, 4, 4, 8))
    assert read.card.diameter_um == pytest.approx(8, abs=0.6)
    assert all(torch.equal(value, read.network.state_dict()[name]) for name, value in first.trained.state.items())
    assert read.card.manifest_sha256 == sha256_file(manifest_path(tmp_path / "w.safetensors"))
    rows = read_manifest(manifest_path(tmp_path / "w.safetensors"))
    assert sorted(row.side for row in rows) == ["train", "train", "validation"]
    assert read.card.validation.startswith("1 of 3 images held out, whole slides")
    lineage = lineage_named(CellTask, str(tmp_path / "w.safetensors"), tmp_path)
    given = {"crop_px": 64, "batch": 2, "epochs": 1, "epoch_steps": 1, "learning_rate": 1e-9, "seed": 1}
    settings = settings_from(CellTraining, lineage.fill_in(given))
    task = CellTask.choose([folder], (), settings, lineage)
    child = train_file(task, tmp_path / "c.safetensors", CPU, lineage=lineage).trained
    assert child.card.parent == first.sha256
    assert [score.image.name for score in child.before] == [score.image.name for score in child.evaluation]
    held = {row.name for row in rows if row.side == "validation"}
    assert {score.image.name for score in child.evaluation} == held  # whatever the seed: the parent's stay held out
    for name, value in read.network.named_parameters():
        torch.testing.assert_close(child.state[name], value, rtol=0, atol=1e-3)
    with pytest.raises(BadWeights, match="Do not set diameter_px"):
        train(replace(task, settings=settings.changed(diameter_px=30.0)), CPU, parent=lineage.weights)


SHIPPED = cells_task(CELLS.changed(epochs=2, batch=2, crop_px=64, nbase=(2, 4, 4, 4, 8)), slides=1, tested=1)


def test_the_shipped_network_s_training_learns_and_writes_what_can_be_loaded(tmp_path):
    trained = train(SHIPPED, CPU)
    losses = trained.history["train_loss"].tolist()
    assert losses[-1] < 0.9 * losses[0]
    assert "f1_at_iou_0.5" in trained.card.scores
    save_weights(tmp_path / "w.safetensors", trained.state, trained.card, half=True)
    network = load_cell_network(tmp_path / "w.safetensors", replace(CPU, backend="torch"))
    assert network.diameter_um == pytest.approx(8.25)
