"""Networks as int8: made once, kept, and used only where their results are those of fp32."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dermatome.errors import BadSetting
from dermatome.inference.backends import Runner, prepare_runner
from dermatome.inference.compute import choose_compute
from dermatome.inference.int8 import int8_runner, same_class
from dermatome.skin.cells.scores import same_cells
from dermatome.skin.cells.settings import CellSettings
from dermatome.skin.tissue.evaluate import tissue_judge
from dermatome.skin.tissue.network import TissueCard
from dermatome.storage.record import Check


class Small(torch.nn.Module):
    """A network of a few convolutions that predicts three classes from colour."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 3, 3, padding=1)
        )

    def forward(self, images):
        return torch.softmax(20 * self.layers(images.permute(0, 3, 1, 2).float() / 255), 1)


def images(count, seed):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


def slide(seed, batches=2):
    def show(runner):
        list(runner.stream((k, images(4, seed + k)) for k in range(batches)))

    return show


def never(runner):
    raise AssertionError("the network was quantised again")


@pytest.fixture(scope="module")
def runner(compute):
    return prepare_runner(Small(), images(2, 0), replace(compute, backend="openvino", int8=True))


def test_a_network_that_keeps_its_classes_runs_as_int8_and_is_quantised_once(runner, tmp_path):
    folder = tmp_path / "int8" / "small"

    def judge(fp32, int8, tiles):
        (check,) = same_class([3])(fp32, int8, tiles)
        return [replace(check, passed=True)]  # this network has learnt nothing, so its classes are close

    made = int8_runner(runner, folder, [slide(1), slide(10, batches=9)], judge)
    assert (made.backend, made.precision, runner.precision) == ("openvino", "int8", "fp32")
    about = json.loads((folder / "about.json").read_text())
    assert about["tiles"] == 8 + 16  # not all of the second slide's
    assert about["checks"][0]["values"]["share"] > 0.9
    assert "FakeQuantize" in (folder / "model.xml").read_text()
    again = int8_runner(runner, folder, [never], never)
    shown = images(3, 99)
    np.testing.assert_array_equal(again.run(shown)[0], made.run(shown)[0])
    assert 0 < np.abs(made.run(shown)[0] - runner.run(shown)[0]).max() < 0.2


def test_one_that_fails_a_check_runs_as_before_and_is_not_tried_again(runner, tmp_path, caplog):
    def refuse(fp32, int8, tiles):
        assert (fp32.precision, int8.precision) == ("fp32", "int8")
        return [Check("worse", False, "It finds nothing.")]

    for judge in (refuse, never):
        assert int8_runner(runner, tmp_path / "small", [slide(1)], judge) is runner
        assert "small runs as fp32, not as int8: It finds nothing." in caplog.text
        caplog.clear()


def test_too_few_tiles_decide_nothing(runner, tmp_path, caplog):
    assert int8_runner(runner, tmp_path / "small", [slide(1, batches=1)], never) is runner
    assert "too little tissue" in caplog.text
    assert not (tmp_path / "small").exists()


class Fixed(Runner):
    """Gives what it was given."""

    def __init__(self, output):
        self.output = output

    def run(self, batch):
        return (self.output,)


def test_a_pixel_of_two_hundred_may_change_its_class():
    found = np.zeros((1, 5, 20, 20), np.float32)
    found[:, [0, 3]] = 1
    for changed, passed in ((4, True), (5, False)):
        other = found.copy()
        other[0, 4].reshape(-1)[:changed] = 2  # of the second head
        (check,) = same_class([2, 3])(Fixed(found), Fixed(other), [found])
        assert check.values["share"] == pytest.approx(1 - changed / 800)
        assert check.passed is passed


class Painted(Runner):
    """Takes for each pixel the class that its red channel names; ``lost`` pixels at the top for background."""

    def __init__(self, lost):
        self.lost = lost

    def _submit(self, batch):
        classes = batch[..., 0] // 60
        classes[:, : self.lost, : self.lost] = 0
        return (np.eye(4, dtype=np.float32)[classes].transpose(0, 3, 1, 2),)

    def _result(self, handle):
        return handle


def test_no_class_may_lose_on_the_hold_out_set(tmp_path):
    truth = np.repeat(np.arange(4, dtype=np.uint8), 32)[None].repeat(128, 0)
    truth[:3] = 1
    for folder, pixels in (("images", np.stack([60 * truth] * 3, -1)), ("masks", truth)):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / "a.png")
    card = TissueCard("resnet18", (16,), mpp=1.0, mpp_range=(0.5, 2.0), coarse_mpp=2.0, tile_mpp=1.0, tile_px=128)
    shown = np.stack([60 * truth] * 3, -1)[None]
    for lost, passed in ((0, True), (4, True), (5, False)):
        checks = tissue_judge(card, [tmp_path], 1.0)(Painted(0), Painted(lost), [shown])
        assert [check.name for check in checks] == ["same_class", "hold_out_iou"]
        assert checks[1].passed is passed, checks[1]
    assert len(tissue_judge(card, [], 1.0)(Painted(0), Painted(0), [shown])) == 1


def test_cells_of_fp32_must_be_found_again(monkeypatch):
    flows = np.zeros((1, 3, 224, 224), np.float32)
    flows[:, 2] = -5
    rows, columns = np.mgrid[:224, :224]
    for middle in range(20, 220, 30):
        inside = (rows - middle) ** 2 + (columns - middle) ** 2 <= 64
        length = np.hypot(rows - middle, columns - middle) + 1e-6
        flows[0, 0][inside] = (-5 * (rows - middle) / length)[inside]
        flows[0, 1][inside] = (-5 * (columns - middle) / length)[inside]
        flows[0, 2][inside] = 5
    lost = flows.copy()
    lost[0, 2, :35] = -5
    judge = same_cells(16.5, CellSettings(flow_threshold=0))
    (too_few,) = judge(Fixed(flows), Fixed(flows), [flows])
    assert not too_few.passed
    monkeypatch.setattr("dermatome.skin.cells.scores.LEAST_CELLS", 6)
    (same,), (fewer,) = (judge(Fixed(flows), Fixed(other), [flows]) for other in (flows, lost))
    assert (same.passed, same.values["f1"], same.values["cells"]) == (True, 1.0, 7)
    assert not fewer.passed
    assert fewer.values["f1"] == pytest.approx(12 / 13)


def test_a_machine_that_cannot_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx2": True})
    with pytest.raises(BadSetting, match="for CPUs that multiply int8"):
        choose_compute("cpu", "int8", 1)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_vnni": True})
    chosen = choose_compute("cpu", "int8", 1)
    assert chosen.int8
    assert chosen.precision in ("fp32", "bf16")
    with pytest.raises(BadSetting, match="needs the backend 'openvino'"):
        choose_compute("cpu", "int8", 1, backend="torch")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "nncf" else name)
    with pytest.raises(BadSetting, match=r"dermatome\[int8\]"):
        choose_compute("cpu", "int8", 1)
