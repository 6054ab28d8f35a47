"""Imports segmentation-models-pytorch also where torchvision's compiled operators do not fit the torch build."""

from __future__ import annotations

from types import ModuleType
from typing import Any


def import_smp() -> ModuleType:
    """``segmentation_models_pytorch``, imported; seconds the first time.

    It imports torchvision through timm. torchvision from the package registry is built for CUDA; beside a CPU build of
    torch its library does not load, and its import then stops with ``operator torchvision::nms does not exist``,
    because it attaches shape functions to operators nobody registered. Declaring the schemas of those two operators
    is enough: none is ever called by a segmentation network.
    """
    _declare_missing_operators()
    import segmentation_models_pytorch as smp

    module: ModuleType = smp
    return module


# A torch library's declarations vanish with it, so it is kept for the life of the process.
_declared: list[object] = []


def _declare_missing_operators() -> None:
    import sys

    if "torchvision" in sys.modules or _declared:
        return
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
            del sys.modules[name]
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
