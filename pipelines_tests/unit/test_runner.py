"""Backends give torch's numbers, keep the order and hold few batches."""

import logging
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from dermatome.errors import BadSetting
from dermatome.inference import backends
from dermatome.inference.backends import prepare_runner
from dermatome.inference.kept import prepare_kept


class TwoHeads(torch.nn.Module):
    """Normalises, convolves, and gives a map and a style, as the tissue and the cell network do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.BatchNorm2d(6), torch.nn.ReLU())

    def forward(self, images):
        found = self.conv((images.permute(0, 3, 1, 2).float() - 120) / 60)
        return torch.softmax(found, 1), found.mean((2, 3))


def batches(count=7, side=32):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (1 + n % 4, side, side + 32 * (n % 2), 3), dtype=np.uint8) for n in range(count)]


@pytest.fixture(scope="module")
def module():
    return TwoHeads().eval()


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_a_stream_gives_the_networks_numbers_in_order_for_batches_of_any_size(module, compute, backend):
    prepared = prepare_runner(module, batches()[3], replace(compute, backend=backend))
    assert prepared.backend == backend
    with torch.inference_mode():
        wanted = [[output.numpy() for output in module(torch.from_numpy(batch))] for batch in batches()]
    found = list(prepared.stream(enumerate(batches())))
    assert [tag for tag, _ in found] == list(range(7))
    for batch, one, (_, outputs) in zip(batches(), wanted, found, strict=True):
        assert len(outputs) == 2
        for expected, output, alone in zip(one, outputs, prepared.run(batch), strict=True):
            assert output.dtype == np.float32
            np.testing.assert_allclose(output, expected, atol=2e-5)
            np.testing.assert_allclose(alone, expected, atol=2e-5)
    first = found[0][1][0].copy()
    prepared.run(batches()[3])
    assert (found[0][1][0] == first).all()  # nobody else's memory


def test_a_kept_network_is_read_while_nothing_changed_and_its_files_are_undamaged(compute, tmp_path, caplog):
    built = []

    def prepared(folder, name="a", precision="fp32", backend="auto"):
        def build():
            built.append(name)
            return TwoHeads().eval()

        here = replace(compute, backend=backend, precision=precision)
        return prepare_kept(build, batches()[3], here, name, folder)

    converted = prepared(tmp_path / "kept").run(batches()[2])
    for again in (prepared(tmp_path / "kept"), prepared(tmp_path / "kept", backend="openvino")):
        assert again.backend == "openvino"
        for one, other in zip(again.run(batches()[2]), converted, strict=True):
            np.testing.assert_array_equal(one, other)
    assert built == ["a"]
    prepared(tmp_path / "kept", "b")
    prepared(tmp_path / "kept", precision="bf16")
    assert prepared(tmp_path / "kept", backend="torch").backend == "torch"
    prepared(None)
    assert built == ["a", "b", "a", "a", "a"]
    for folder in (tmp_path / "kept").glob("*/"):
        for file, damage in (("model.bin", bytes(100)), ("model.xml", b"<net/>"), ("about.json", b"{")):
            built.clear()
            (folder / file).write_bytes(damage)
            kept = tmp_path / "kept"
            ready = [prepared(kept), prepared(kept, "b"), prepared(kept, "a", "bf16")]
            assert len(built) == 1, (file, built)
            for one, other in zip(ready[0].run(batches()[2]), converted, strict=True):
                np.testing.assert_array_equal(one, other)
    (tmp_path / "file").write_bytes(b"")
    assert prepared(tmp_path / "file" / "kept").backend == "openvino"
    assert "cannot be stored in" in caplog.text


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_few_batches_are_held_and_a_stream_may_be_left(module, compute, backend):
    prepared = prepare_runner(module, batches()[3], replace(compute, backend=backend))
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield asked, batches()[0]

    stream = prepared.stream(endless())
    for taken in range(1, 6):
        next(stream)
        assert asked - taken < 4
    stream.close()
    assert [tag for tag, _ in prepared.stream([(1, batches()[1])])] == [1]


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_a_failure_while_batches_are_made_or_run_arrives(module, compute, backend):
    prepared = prepare_runner(module, batches()[3], replace(compute, backend=backend))

    def breaks():
        yield 1, batches()[0]
        raise OSError("cannot read on")

    with pytest.raises(OSError, match="read on"):
        list(prepared.stream(breaks()))
    with pytest.raises(RuntimeError):
        list(prepared.stream([(1, np.zeros((1, 32, 32, 5), np.uint8))]))
    assert len(list(prepared.stream([(1, batches()[0])]))) == 1


class Wrong(backends.OpenVinoRunner):
    def _result(self, handle):
        return tuple(output + np.float32(0.01) for output in super()._result(handle))


@pytest.mark.parametrize("broken", [Wrong, lambda *_: 1 / 0])
def test_what_does_not_agree_with_torch_is_refused_with_a_reason(module, compute, monkeypatch, caplog, broken):
    monkeypatch.setattr(backends, "OpenVinoRunner", broken)
    with caplog.at_level(logging.WARNING):
        assert prepare_runner(module, batches()[3], compute).backend == "torch"
    assert "differ by up to 0.0" in caplog.text or "ZeroDivisionError" in caplog.text
    if broken is Wrong:
        with pytest.raises(BadSetting, match="does not agree with torch for this network"):
            prepare_runner(module, batches()[3], replace(compute, backend="openvino"))


def test_nan_disagrees(compute):
    ones = (np.ones(3, np.float32),)
    assert backends._disagreement((np.array([1, np.nan, 1], np.float32),), ones, compute)
    assert backends._disagreement((np.ones(4, np.float32),), ones, compute)
    assert not backends._disagreement((ones[0] + np.float32(1e-4),), ones, compute)


def test_what_is_asked_for_and_absent_is_an_error(module, compute, monkeypatch):
    with pytest.raises(BadSetting, match="no compute backend 'tensorrt'"):
        prepare_runner(module, batches()[3], replace(compute, backend="tensorrt"))
    with pytest.raises(BadSetting, match="for CPUs, not meta"):
        prepare_runner(torch.nn.Identity(), batches()[3], replace(compute, device="meta", backend="openvino"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadSetting, match="not installed"):
        prepare_runner(module, batches()[3], replace(compute, backend="openvino"))
    assert prepare_runner(module, batches()[3], compute).backend == "torch"


QUIET = """
import socket, sys
import numpy as np
import torch

def refuse(*args, **kwargs):
    raise AssertionError(f"the network was used: {args}")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from dermatome.inference.compute import choose_compute
from dermatome.inference.backends import prepare_runner

module = torch.nn.Conv2d(3, 2, 3).eval()
compute = choose_compute("cpu", "fp32", 1, backend="openvino")
prepared = prepare_runner(module, np.zeros((2, 3, 8, 8), np.float32), compute)
prepared.run(np.zeros((2, 3, 8, 8), np.float32))
sent_by = [name for name, found in sys.modules.items() if name.startswith("openvino_telemetry") and found]
assert not sent_by, sent_by
from openvino.tools.ovc import telemetry_utils
assert "telemetry_stub" in telemetry_utils.tm.__name__, telemetry_utils.tm
"""


def test_openvino_sends_no_usage_data():
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
