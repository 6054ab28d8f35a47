"""What tests of the platform begin with: an empty data root and Dagster instance, and what the UI reads of them."""

import shutil

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster_graphql.cli import execute_query

from dermatome.storage.layout import DataRoot
from orchestration import definitions


@pytest.fixture
def root(tmp_path):
    return DataRoot(tmp_path)


@pytest.fixture(scope="session")
def empty_storage(tmp_path_factory):
    """Dagster's storage with its tables, which take longer to make than to copy."""
    folder = tmp_path_factory.mktemp("storage")
    with dg.instance_for_test(temp_dir=str(folder)) as made:
        made.get_runs_count()
        made.all_instigator_state()
    return folder


@pytest.fixture
def new_instance(empty_storage, tmp_path_factory):
    """Opens an empty instance, as a context manager."""

    def opened():
        folder = tmp_path_factory.mktemp("instance")
        shutil.copytree(empty_storage, folder, dirs_exist_ok=True)
        return dg.instance_for_test(temp_dir=str(folder))

    return opened


@pytest.fixture
def instance(new_instance):
    with new_instance() as found:
        yield found


@pytest.fixture
def ask(root, instance, monkeypatch):
    """Asks the instance and the code location over the data root as the UI does: a GraphQL query and its variables."""
    monkeypatch.setattr(definitions, "defs", definitions.build_defs(root.path))
    loaded = LoadableTargetOrigin(module_name=definitions.__name__, attribute="defs")
    target = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(loaded, location_name="d"))
    with WorkspaceProcessContext(instance, target) as workspace:

        def answer(query, **variables):
            found = execute_query(workspace, query, variables)
            assert not found.get("errors"), found
            return found["data"]

        yield answer
