"""The real platform as a test drives it: web server and daemon as processes, GraphQL over HTTP."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import requests

from dermatome.slides.source import SlideSource
from dermatome.storage.layout import DataRoot

CHECKOUT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(root: Path, postgres: Mapping[str, str] | None = None) -> dict[str, str]:
    """What `make` sets, over a data root of the test's own, and perhaps a Postgres."""
    storage = root / "dagster"
    storage.mkdir(parents=True, exist_ok=True)
    home = CHECKOUT
    if postgres:
        home = storage / "postgres"
        subprocess.run(["make", "home", f"DATA={root}", f"POSTGRES={postgres['PGHOST']}"], cwd=CHECKOUT, check=True)
    return os.environ | {
        **(postgres or {}),
        "DAGSTER_HOME": str(home),
        "DERMATOME_DATA": str(root),
        "DERMATOME_DAGSTER_STORAGE": str(storage),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "PYTHONUNBUFFERED": "1",
        # Tests share two cores with the daemon, the web server and the code server.
        "OMP_NUM_THREADS": "2",
    }


class Platform:
    """Starts `orchestration.ui` over a data root and talks GraphQL to it."""

    def __init__(
        self,
        root: Path,
        postgres: Mapping[str, str] | None = None,
        log: Path | None = None,
        changed: Mapping[str, str] | None = None,
    ) -> None:
        """``changed`` are variables of the environment that are not as `make` sets them."""
        self.root, self.port = root, free_port()
        self._environment = environment(root, postgres) | dict(changed or {})
        self._log = (log or root / "platform.log").open("ab")

    def __enter__(self) -> "Platform":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "orchestration.ui", "--port", str(self.port)],
            cwd=CHECKOUT,
            env=self._environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.wait_for(self._answers, "the web server", timeout_s=180)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._log.close()

    @property
    def is_up(self) -> bool:
        """Whether its supervisor runs."""
        return self._process.poll() is None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def instance(self) -> dg.DagsterInstance:
        """The same instance from this process."""
        os.environ.update(
            {
                name: value
                for name, value in self._environment.items()
                if name.startswith(("DAGSTER_", "DERMATOME_", "PG"))
            }
        )
        return dg.DagsterInstance.get()

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        answer = requests.post(f"{self.url}/graphql", json={"query": text, "variables": variables}, timeout=60)
        content = answer.json()
        assert "errors" not in content, content["errors"]
        return content["data"]

    def backfill(self, assets: list[str], partitions: list[str]) -> str:
        """Materializes partitions of assets as the UI does."""
        data = self.query(
            """mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
                __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
            params={"assetSelection": [{"path": [asset]} for asset in assets], "partitionNames": partitions},
        )["launchPartitionBackfill"]
        assert data["__typename"] == "LaunchBackfillSuccess", data
        return data["backfillId"]

    def turn_on(self, sensor: str) -> None:
        """Starts a sensor as the UI's switch does."""
        where = {"repositoryName": "__repository__", "repositoryLocationName": "dermatome"}
        data = self.query(
            """mutation ($selector: SensorSelector!) { startSensor(sensorSelector: $selector) {
                __typename ... on PythonError { message } } }""",
            selector=where | {"sensorName": sensor},
        )["startSensor"]
        assert data["__typename"] == "Sensor", data

    def launch(self, job: str, run_config: dict[str, Any] | None = None) -> str:
        """Launches a job as the UI's launchpad does; its run's id."""
        where = {"repositoryName": "__repository__", "repositoryLocationName": "dermatome"}
        data = self.query(
            """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
                __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
            params={"selector": where | {"pipelineName": job}, "runConfigData": run_config or {}},
        )["launchRun"]
        assert data["__typename"] == "LaunchRunSuccess", data
        return data["run"]["runId"]

    def retry_from_failure(self, backfill_id: str) -> str:
        """The UI's button `Re-execute from failure`."""
        data = self.query(
            """mutation ($params: ReexecutionParams!) { reexecutePartitionBackfill(reexecutionParams: $params) {
                __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
            params={"parentRunId": backfill_id, "strategy": "FROM_FAILURE"},
        )["reexecutePartitionBackfill"]
        assert data["__typename"] == "LaunchBackfillSuccess", data
        return data["backfillId"]

    def finished(self, backfill_id: str, timeout_s: float = 300) -> dict[str, Any]:
        """The backfill once it has ended, with counts for each asset."""
        text = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
            status numPartitions assetBackfillData { assetBackfillStatuses { ... on AssetPartitionsStatusCounts {
            assetKey { path } numPartitionsTargeted numPartitionsMaterialized numPartitionsFailed } } } } } }"""
        found: dict[str, Any] = {}

        def ended() -> bool:
            found.update(self.query(text, id=backfill_id)["partitionBackfillOrError"])
            return found["status"] not in ("REQUESTED", "CANCELING", "FAILING")

        self.wait_for(ended, f"backfill {backfill_id}", timeout_s)
        return found

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > until or self._process.poll() is not None:
                tail = Path(self._log.name).read_text(errors="replace")[-4000:]
                raise AssertionError(f"Waited in vain for {what}.\n{tail}")
            time.sleep(1)

    def _answers(self) -> bool:
        try:
            found = self.query(
                "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }"
            )
        except (requests.ConnectionError, requests.Timeout):
            return False
        entries = found["workspaceOrError"]["locationEntries"]
        return bool(entries) and all(entry["locationOrLoadError"] for entry in entries)


def hpa_slides(root: DataRoot, url: str, count: int) -> list[SlideSource]:
    """Slides of a mock HPA server, by number, which the data root's settings take for HPA."""
    hosts = f'base_url = "{url}"\narchive_urls = []\nallowed_hosts = ["127.0.0.1"]\nretries = 1\n'
    root.path.mkdir(exist_ok=True)
    root.settings.write_text(f"[hpa]\n{hosts}")
    return [SlideSource(f"700-{n}_A", "hpa", f"{url}/images/700/{n}_A.jpg") for n in range(count)]


def counts(backfill: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    """For each asset: partitions targeted, materialized, failed."""
    return {
        status["assetKey"]["path"][0]: (
            status["numPartitionsTargeted"],
            status["numPartitionsMaterialized"],
            status["numPartitionsFailed"],
        )
        for status in backfill["assetBackfillData"]["assetBackfillStatuses"]
    }
