"""Resources of a run: paths, settings, compute, the HPA client.

Belongs here: anything configured once for a deployment and passed to assets. Does not: science (`dermatome`), the order
of stages (`assets`), when things run (`orchestration`).
"""

from resources.compute import ComputeResource
from resources.hpa import HpaResource
from resources.paths import PathsResource
from resources.settings import SettingsResource

__all__ = ["ComputeResource", "HpaResource", "PathsResource", "SettingsResource"]
