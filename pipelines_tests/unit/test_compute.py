"""Several runs on one machine take a GPU each; the library of networks imports beside any torchvision."""

import subprocess
import sys
import textwrap
from pathlib import Path

TWO_GPUS = """
import sys, tempfile
from types import SimpleNamespace
tempfile.tempdir = sys.argv[1]
cuda = SimpleNamespace(
    is_available=lambda: True, device_count=lambda: 2,
    get_device_properties=lambda index: SimpleNamespace(uuid=f"gpu-{index}"),
)
sys.modules["torch"] = SimpleNamespace(cuda=cuda)  # torch itself takes seconds to import in each process
from dermatome.inference.compute import free_gpu
assert free_gpu() == free_gpu(), "a process has one"
print(free_gpu(), flush=True)
sys.stdin.read()
"""


def run(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", TWO_GPUS, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_each_process_takes_a_gpu_that_no_living_one_has(tmp_path: Path) -> None:
    first, second = run(tmp_path), None
    try:
        assert first.stdout.readline() == "0\n"
        second = run(tmp_path)
        assert second.stdout.readline() == "1\n"
        third = run(tmp_path)
        assert third.communicate("")[0] == "None\n", "with all GPUs claimed, the first one is shared"
        first.kill()
        first.wait()
        again = run(tmp_path)
        assert again.communicate("")[0] == "0\n", "a process that was killed has none"
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.communicate()


def test_it_imports_where_torchvisions_library_does_not_load():
    code = textwrap.dedent(
        """
        import sys, types
        import torch
        # Stands in for a torchvision built for another torch: its first import stops as the real one does there.
        class Broken:
            tried = False
            def find_spec(self, name, path=None, target=None):
                if name == "torchvision" and not Broken.tried:
                    Broken.tried = True
                    raise RuntimeError("operator torchvision::nms does not exist")
        sys.meta_path.insert(0, Broken())
        from dermatome.inference.torch_setup import _declared, import_smp
        import dermatome.inference.torch_setup as setup
        try:
            smp = import_smp()
        except RuntimeError as error:
            # Where the real library loads, its own schemas clash with the declared ones: the fallback was taken.
            assert "torchvision" in str(error) and "nms" in str(error), error
            smp = None
        assert setup._declared, "the schemas were not declared"
        if smp is not None:
            network = smp.Unet("resnet18", encoder_weights=None, classes=4)
            with torch.inference_mode():
                assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 4, 64, 64)
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
