"""Cell networks: nothing is completed, replaced or downloaded behind the user's back."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dermatome.errors import BadWeights, FetchFailed
from dermatome.inference.compute import Compute
from dermatome.skin.cells import cyto2
from dermatome.skin.cells.image import PREPARATION
from dermatome.skin.cells.network import CYTO2_NBASE, CellCard, build_cpnet, load_cell_network
from dermatome.training.weights import save_weights
from pipelines_tests.faulty_hpa_server import Fault, FaultyHpaServer

CPU = Compute(device="cpu", precision="fp32", threads=1, device_name="cpu")
CARD = CellCard((2, 4, 4, 4, 8), 16.0, 8.0, PREPARATION, "nothing", name="small")


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save_weights(tmp_path / "w.safetensors", build_cpnet(CARD.nbase, CARD.diameter_px).state_dict(), CARD, half=True)
    return tmp_path / "w.safetensors"


def test_what_was_saved_is_loaded_as_half_floats(weights):
    network = load_cell_network(weights, replace(CPU, backend="torch"))
    assert (network.name, network.diameter_px, network.diameter_um) == ("small", 16.0, 8.0)
    assert network.size_model is None
    stored = load_file(weights)
    model = build_cpnet(CARD.nbase, CARD.diameter_px)
    model.load_state_dict({name: value.float() for name, value in stored.items()})
    tiles = np.random.default_rng(0).random((2, 2, 224, 224), dtype=np.float32)
    with torch.no_grad():
        wanted = model.eval()(torch.from_numpy(tiles))
    flows, styles = network.runner.run(tiles)
    np.testing.assert_allclose(flows, wanted[0], atol=1e-4)
    np.testing.assert_allclose(styles, wanted[1], atol=1e-4)
    assert {v.dtype for v in stored.values()} == {torch.float16, torch.int64}
    assert json.loads(weights.with_suffix(".json").read_text())["sha256"] == network.sha256


def test_a_network_of_cells_that_was_kept_is_not_built_again(weights, tmp_path, monkeypatch):
    tiles = np.random.default_rng(0).random((2, 2, 224, 224), dtype=np.float32)
    there = replace(CPU, backend="openvino")
    wanted = load_cell_network(weights, there, kept=tmp_path / "kept").runner.run(tiles)
    monkeypatch.setattr("dermatome.skin.cells.network.build_cpnet", None)
    found = load_cell_network(weights, there, kept=tmp_path / "kept")
    assert found.backend == "openvino"
    for one, other in zip(found.runner.run(tiles), wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(BadWeights):
        load_cell_network(weights, there, kept=tmp_path / "another")


def test_the_style_is_cellposes():
    from cellpose.resnet_torch import CPnet

    torch.manual_seed(0)
    ours = build_cpnet(CARD.nbase, 16.0).eval()
    theirs = CPnet(list(CARD.nbase), nout=3, sz=3, diam_mean=16.0).eval()
    theirs.load_state_dict(ours.state_dict())
    tiles = torch.rand(2, 2, 224, 224)
    with torch.no_grad():
        for one, other in zip(ours(tiles)[:2], theirs(tiles)[:2], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def rewrite(path, change):
    tensors, card = load_file(path), {**vars(CARD), "nbase": list(CARD.nbase)}
    change(tensors, card)
    save_file(tensors, path, metadata={"card": json.dumps(card)} if card else {"other": "x"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, c: t.pop("output.2.weight"), r"1 tensors are missing \(for example output.2.weight"),
        (lambda t, c: t.update(extra=torch.ones(1)), r"1 are unexpected \(for example extra"),
        (lambda t, c: c.update(nbase=[2, 4, 4, 4, 16]), "of another shape"),
        (lambda t, c: c.update(nbase=[2, 4]), "no readable weights card"),
        (lambda t, c: c.update(nbase=[2, 4, 4, 4, 10**9]), "no readable weights card"),
        (lambda t, c: c.update(format="other"), "of the format 'other'"),
        (lambda t, c: c.update(preparation="raw"), "prepared as 'raw'"),
        (lambda t, c: c.clear(), "no readable weights card"),
    ],
)
def test_files_that_do_not_fit_are_refused(weights, change, says):
    rewrite(weights, change)
    with pytest.raises(BadWeights, match=says):
        load_cell_network(weights, CPU)


def test_cut_short_missing_and_other_files_are_refused(weights, tmp_path):
    data = weights.read_bytes()
    for wrong in (data[: len(data) // 2], b"", b"\x80\x02}q\x00."):
        weights.write_bytes(wrong)
        with pytest.raises(BadWeights, match="not a complete safetensors file"):
            load_cell_network(weights, CPU)
    with pytest.raises(BadWeights, match="no cell network weights at"):
        load_cell_network(tmp_path / "absent", CPU)
    assert not (tmp_path / "absent").exists()


@pytest.fixture(scope="module")
def cyto2_files(tmp_path_factory):
    """A folder as Cellpose's model zoo has it: old weights without the two numbers, and a pickled size model."""
    folder = tmp_path_factory.mktemp("models")
    tensors = build_cpnet(CYTO2_NBASE, 30.0).state_dict()
    torch.save({k: v for k, v in tensors.items() if not k.startswith("diam_")}, folder / cyto2.NETWORK_FILE)
    size = {"A": np.full((1, 256), 0.5), "smean": np.zeros(256), "diam_mean": 30.0, "ymean": np.float64(np.log(1.2))}
    np.save(folder / cyto2.SIZE_FILE, np.array(size, dtype=object), allow_pickle=True)
    return folder


def test_cyto2_is_loaded_with_its_size_model(cyto2_files):
    network = load_cell_network(cyto2_files, replace(CPU, backend="torch"))
    assert (network.name, network.diameter_px, network.diameter_um) == ("cyto2", 30.0, None)
    assert network.size_model is not None
    style = np.zeros(256, dtype=np.float32)
    style[0] = 2 * np.log(1.5)
    assert network.size_model.diameter(style) == pytest.approx(30 * 1.2 * 1.5, rel=1e-5)
    assert network.size_model.diameter(style - 100) == 5.0


def test_cyto2_that_is_absent_is_not_downloaded(tmp_path):
    with pytest.raises(BadWeights, match="There is no cyto2torch_0 in"):
        load_cell_network(tmp_path, CPU)
    assert not list(tmp_path.iterdir())


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)


def test_files_that_would_run_code_do_not(cyto2_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    size = tmp_path / "size.npy"
    np.save(size, np.array({"A": Harmful()}, dtype=object), allow_pickle=True)
    with pytest.raises(BadWeights, match="not a Cellpose size model"):
        cyto2.read_size_model(size, 256)
    (tmp_path / cyto2.SIZE_FILE).write_bytes((cyto2_files / cyto2.SIZE_FILE).read_bytes())
    (tmp_path / cyto2.NETWORK_FILE).write_bytes(pickle.dumps({"a": Harmful()}, protocol=2))
    with pytest.raises(BadWeights, match="not a file of torch weights"):
        load_cell_network(tmp_path, CPU)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", np.zeros(3).tobytes()])
def test_damaged_size_models_are_refused(tmp_path, content):
    (tmp_path / "size.npy").write_bytes(content)
    with pytest.raises(BadWeights, match="not a Cellpose size model"):
        cyto2.read_size_model(tmp_path / "size.npy", 256)


HERE = ("127.0.0.1",)


@pytest.fixture
def zoo(cyto2_files):
    """A local model zoo."""
    with FaultyHpaServer(images={f"/{path.name}": path.read_bytes() for path in cyto2_files.iterdir()}) as server:
        yield server


def test_cyto2_is_fetched_once_and_loads(zoo, tmp_path):
    for _ in range(2):
        assert cyto2.fetch_cyto2(tmp_path / "m", base_url=zoo.url, hosts=HERE) == tmp_path / "m"
    assert len(zoo.requests) == 2, "one for each file"
    assert load_cell_network(tmp_path / "m", replace(CPU, backend="torch")).name == "cyto2"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(status=404), r"not there \(404\)"),
        (Fault(truncate=100), "broke off after|bytes arrived"),
        (Fault(body=bytes(2 * 2**20)), "larger than"),
        (Fault(redirect="http://127.0.0.2:9/x"), "127.0.0.2"),
    ],
)
def test_a_fetch_that_fails_leaves_nothing_and_says_what_to_do(zoo, tmp_path, fault, says):
    zoo.faults[f"/{cyto2.SIZE_FILE}"] = fault
    (tmp_path / cyto2.NETWORK_FILE).write_bytes(b"there already")
    with pytest.raises(FetchFailed, match=says) as caught:
        cyto2.fetch_cyto2(tmp_path, base_url=zoo.url, hosts=HERE)
    assert f"put it at {tmp_path / cyto2.SIZE_FILE}" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [cyto2.NETWORK_FILE]
