"""The one data root."""

import dagster as dg

from dermatome.storage.layout import DataRoot


class PathsResource(dg.ConfigurableResource):
    """Where everything lies; see `dermatome.storage.layout` for the layout. ``root`` is a folder."""

    root: str

    @property
    def data_root(self) -> DataRoot:
        """The data root as the science layer knows it."""
        return DataRoot.at(self.root)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Checks that the root can be written to before any work starts."""
        self.data_root.check_writable()
