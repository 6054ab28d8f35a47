"""Tissue images into tiles, masks, cells and rows: the science, the file formats and the command line.

This package knows no Dagster and takes no settings from the environment; what a run is given comes as arguments.
"""

import os

__version__ = "0.1.0"

# torch's threads wait for one another by spinning. As soon as one of their cores has other work, all of them burn their
# time waiting: a training step of 0.5 s was measured at 11 s. Read by OpenMP when torch is loaded, so it is set here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
