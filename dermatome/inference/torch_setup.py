"""Imports segmentation-models-pytorch even if torchvision's compiled operators do not fit the torch build."""

from __future__ import annotations

from types import ModuleType
from typing import Any


def import_smp() -> ModuleType:
    """Imports ``segmentation_models_pytorch``, which takes seconds the first time.

    It imports torchvision through timm. The torchvision in the package registry is built for CUDA. With a CPU build of
    torch its library does not load, and its import stops with ``operator torchvision::nms does not exist``, because it
    attaches shape functions to operators that are not registered. Declaring the schemas of these two operators is
    enough, as segmentation networks never call them.
    """
    _declare_missing_operators()
    import segmentation_models_pytorch as smp

    module: ModuleType = smp
    return module


# Declarations vanish with their torch library object, so it is kept until the process ends.
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
