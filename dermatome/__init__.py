"""Tissue images into tiles, masks, cells and rows: the science, the file formats and the command line.

This package knows no Dagster and takes no settings from the environment; what a run is given comes as arguments.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dermatome.api import (
        find_nuclei,
        load_results,
        measure_layers,
        read_slide,
        score_tils,
        segment_cells,
        segment_tissue,
    )

__all__ = [
    "find_nuclei",
    "load_results",
    "measure_layers",
    "read_slide",
    "score_tils",
    "segment_cells",
    "segment_tissue",
]
__version__ = "0.1.0"

# torch's threads wait for one another by spinning. As soon as one of their cores has other work, all of them burn their
# time waiting: a training step of 0.5 s was measured at 11 s. Read by OpenMP when torch is loaded, so it is set here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> Any:
    """The functions of :mod:`dermatome.api`, imported when the first one is used."""
    if name not in __all__:
        raise AttributeError(f"module 'dermatome' has no attribute {name!r}")
    from dermatome import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
