"""What tests of the platform begin with: an empty data root and Dagster instance, and what the UI reads of them."""

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster_graphql.cli import execute_query

from dermatome.storage.layout import DataRoot


@pytest.fixture
def root(tmp_path):
    return DataRoot(tmp_path)


@pytest.fixture
def instance():
    with dg.instance_for_test() as found:
        yield found


@pytest.fixture
def ask(root, instance, monkeypatch):
    """Asks the instance and the code location over the data root as the UI does: a GraphQL query and its variables."""
    monkeypatch.setenv("DERMATOME_DATA", str(root.path))
    target = ModuleTarget("orchestration.definitions", attribute=None, working_directory=None, location_name="d")
    with WorkspaceProcessContext(instance, target) as workspace:

        def answer(query, **variables):
            found = execute_query(workspace, query, variables)
            assert not found.get("errors"), found
            return found["data"]

        yield answer
