"""What tests of the platform begin with: a data root and a Dagster instance, both empty."""

import dagster as dg
import pytest

from dermatome.storage.layout import DataRoot


@pytest.fixture
def root(tmp_path):
    return DataRoot(tmp_path)


@pytest.fixture
def instance():
    with dg.instance_for_test() as found:
        yield found
