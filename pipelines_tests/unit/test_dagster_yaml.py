"""The two files of instance settings say the same, but for where Dagster stores its events."""

import yaml

from pipelines_tests.e2e.platform import CHECKOUT


def test_with_postgres_only_the_storage_is_another():
    sqlite, postgres = (
        yaml.safe_load((CHECKOUT / name).read_text()) for name in ("dagster.yaml", "dagster.postgres.yaml")
    )
    assert set(sqlite.pop("storage")) == {"sqlite"}
    assert set(postgres.pop("storage")) == {"postgres"}
    assert postgres == sqlite
