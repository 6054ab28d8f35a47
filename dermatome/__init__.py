"""From images of tissue to tiles, masks, cells and tables: the science, the file formats and the command line.

This package does not use Dagster and reads no settings from the environment; all inputs are arguments.
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

# torch's threads wait for each other in busy loops. If one of their cores has other work, all waste their time: a
# training step of 0.5 s took 11 s. OpenMP reads the variable when torch is loaded, so it is set here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> Any:
    """The functions of :mod:`dermatome.api`, which is imported on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'dermatome' has no attribute {name!r}")
    from dermatome import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
