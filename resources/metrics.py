"""The metrics store: DuckDB, made whole from the Parquet files."""

import dagster as dg

from dermatome.storage.layout import DataRoot
from dermatome.warehouse.store import StoreSummary, build_store


class MetricsResource(dg.ConfigurableResource):
    """Rebuilds the DuckDB file and swaps it in, so a reader is never locked out and never sees half of it."""

    def rebuild(self, root: DataRoot) -> StoreSummary:
        """Makes the store from all records under ``root``, once what killed runs left there is swept away."""
        root.sweep()
        return build_store(root)
