"""The one data root."""

import dagster as dg

from dermatome.storage.layout import DataRoot


class PathsResource(dg.ConfigurableResource):
    """The data root, a folder; see `dermatome.storage.layout` for its layout."""

    root: str

    @property
    def data_root(self) -> DataRoot:
        """The data root as a :class:`DataRoot`."""
        return DataRoot.at(self.root)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Checks that the data root is writable before any work starts."""
        self.data_root.check_writable()
