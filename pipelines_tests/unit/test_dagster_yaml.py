"""The two files of instance settings say the same, but for where Dagster stores its events."""

import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.instance.config import get_default_tick_retention_settings, get_tick_retention_settings
from dagster._core.scheduler.instigation import TickStatus

from pipelines_tests.e2e.platform import CHECKOUT


def test_with_postgres_only_the_storage_is_another():
    sqlite, postgres = (
        yaml.safe_load((CHECKOUT / name).read_text()) for name in ("dagster.yaml", "dagster.postgres.yaml")
    )
    assert set(sqlite.pop("storage")) == {"sqlite"}
    assert set(postgres.pop("storage")) == {"postgres"}
    assert postgres == sqlite


def test_ticks_of_every_outcome_are_purged():
    retention = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())["retention"]
    for kind in (InstigatorType.SCHEDULE, InstigatorType.SENSOR):
        settings = get_tick_retention_settings(retention[kind.value.lower()], get_default_tick_retention_settings(kind))
        assert all(0 < days <= 90 for status, days in settings.items() if status != TickStatus.STARTED), kind
