"""What the assets that compare the versions of a kind of network share."""

from typing import TYPE_CHECKING

import dagster as dg

from assets.materialize import materialize_one
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import require_record

if TYPE_CHECKING:
    from dermatome.reports.training import ReportLayout


WITH_NEW_VERSIONS = (
    dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)
"""Requests a comparison after a version was trained: cheap, as versions are few (docs/decisions/0025-automation.md)."""


def compare(context: dg.AssetExecutionContext, root: DataRoot, layout: "ReportLayout") -> dg.MaterializeResult:
    """Compares all versions in the data root and records the result."""
    from dermatome.reports.training import compare_versions

    versions = root.partitions(layout.kind.weights)
    return materialize_one(
        context,
        root,
        CHAMPION,
        make=lambda folder: compare_versions(root, layout, versions, folder),
        inputs={version: require_record(root, layout.kind.weights, version).data_version for version in versions},
        settings={},
    )
