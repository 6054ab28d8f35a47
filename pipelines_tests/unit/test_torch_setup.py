"""The library of segmentation networks imports whichever torchvision is beside torch."""

import subprocess
import sys
import textwrap


def run(code):
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300)


def test_it_imports_where_torchvisions_library_does_not_load():
    done = run(
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
    assert done.returncode == 0, done.stderr
