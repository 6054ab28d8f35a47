"""Dagster's real web server behind its guard: what another web site cannot do through a browser."""

import os
import signal
import subprocess
import sys
import time

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from orchestration.webserver import refused_mutation
from pipelines_tests.e2e.platform import CHECKOUT, environment, free_port
from pipelines_tests.web_server import requester

MUTATION = 'mutation { setConcurrencyLimit(concurrencyKey: "stolen", limit: 0) }'
LIMITS = "{ instance { concurrencyLimits { concurrencyKey } } }"


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("dagster") / "root"


@pytest.fixture(scope="module")
def url(data_root):
    """The web server as `make ui` starts it, over no code location."""
    folder = data_root
    folder.mkdir()
    (folder / "workspace.yaml").write_text("load_from: []\n")
    port = free_port()
    command = ["orchestration.webserver", "--port", str(port), "--allow-host", "lab.example", "--workspace"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, str(folder / "workspace.yaml")],
            cwd=CHECKOUT, env=environment(folder), stdout=log, stderr=log,
        )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while True:
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/server_info").status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < until, (folder / "log").read_text()
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="module")
def client(url):
    with requester(url) as client:
        yield client


def limits(client):
    answer = client.post("/graphql", json={"query": LIMITS})
    return {limit["concurrencyKey"] for limit in answer.json()["data"]["instance"]["concurrencyLimits"]}


def test_its_own_pages_read_and_change_it(url, client):
    host = url.removeprefix("http://")
    own = {"Origin": url, "Sec-Fetch-Site": "same-origin", "Host": host}
    assert "<html" in client.get("/", headers={"Sec-Fetch-Site": "none"}).text
    change = 'mutation { setConcurrencyLimit(concurrencyKey: "mine", limit: 2) }'
    assert client.post("/graphql", json={"query": change}, headers=own).json()["data"]
    assert "mine" in limits(client)
    assert client.get("/graphql", params={"query": LIMITS}).json()["data"]
    proxied = {"Host": "lab.example", "Origin": "https://lab.example"}
    assert client.post("/graphql", json={"query": LIMITS}, headers=proxied).status_code == 200
    shown = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/runs", headers=shown).status_code == 200, "a link in a mail opens no page"


@pytest.mark.parametrize(
    "query", [MUTATION, MUTATION.replace(" ", "\n"), f"#\n{MUTATION}", f"query a {{ version }} {MUTATION}"]
)
def test_a_mutation_by_get_is_refused(client, query):
    for more in ({}, {"operationName": "a"}):
        assert client.get("/graphql", params={"query": query} | more).status_code == 405
    assert client.get(f"/graphql?query={'%6d'}utation{{wipeAssets(assetKeys:[])}}").status_code == 405
    assert "stolen" not in limits(client)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "http://localhost:8888"},
        {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ],
    ids=str,
)  # fmt: skip
def test_another_site_cannot_change_it(client, headers):
    ways = (
        {"json": {"query": MUTATION}},
        {"params": {"query": MUTATION}},
        {"content": MUTATION, "headers": {"Content-Type": "application/graphql"}},
        {"params": {"query": MUTATION}, "data": {"a": "b"}},
    )
    for way in ways:
        answer = client.post("/graphql", **way | {"headers": way.get("headers", {}) | headers})
        assert answer.status_code == 403
    assert client.get("/graphql", params={"query": MUTATION}, headers=headers).status_code in (403, 405)
    assert client.post("/report_asset_materialization/a", headers=headers).status_code == 403
    assert "stolen" not in limits(client)


def test_a_web_socket_of_another_site_is_refused(url):
    place = url.replace("http", "ws") + "/graphql"
    with connect(place, origin=url, subprotocols=["graphql-ws"]) as socket:
        socket.send('{"type": "connection_init"}')
        assert "connection_ack" in socket.recv(20)
    for origin in ("http://evil.example", "null", "http://localhost:8888"):
        with pytest.raises(InvalidStatus), connect(place, origin=origin, subprotocols=["graphql-ws"]):
            pass
    site = {"Sec-Fetch-Site": "cross-site"}
    with pytest.raises(InvalidStatus), connect(place, additional_headers=site, subprotocols=["graphql-ws"]):
        pass


def test_only_graphql_itself_is_searched_for_mutations():
    def scope(path, query=b"q=mutation", method="GET", kind="http"):
        return {"type": kind, "method": method, "path": path, "query_string": query}

    assert refused_mutation(scope("/assets")) is None
    assert refused_mutation(scope("/graphql", method="POST")) is None
    assert refused_mutation(scope("/graphql", kind="websocket")) is None
    assert refused_mutation(scope("/graphql", b"query={__schema{mutationType{name}}}")) is None
    assert refused_mutation(scope("/prefix/graphql")).status == 405


def test_figures_and_reports_of_the_data_root_are_served_and_nothing_else(client, data_root):
    folder = data_root / "epidermis_layers" / "s1"
    folder.mkdir(parents=True)
    for name in ("figure.png", "report.html", "layers.parquet", ".hidden.png"):
        (folder / name).write_text("<script>")
    (data_root / "settings.toml").write_text("")
    outside = data_root.parent / "outside.png"
    outside.write_text("no")
    (folder / "link.png").symlink_to(outside)
    for name in ("figure.png", "report.html"):
        answer = client.get(f"/results/epidermis_layers/s1/{name}", headers={"Sec-Fetch-Site": "same-origin"})
        assert answer.status_code == 200
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("sandbox allow-scripts; default-src 'none'")
        assert "script-src 'sha256-" in policy
        assert "allow-same-origin" not in policy
    inside = [f"epidermis_layers/s1/{name}" for name in ("layers.parquet", ".hidden.png", "link.png", "")]
    for path in (*inside, "settings.toml", "..%2Foutside.png"):
        assert client.get(f"/results/{path}").status_code == 404, path
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert client.get("/results/epidermis_layers/s1/figure.png", headers=elsewhere).status_code == 403
    assert client.post("/results/epidermis_layers/s1/figure.png").status_code == 405
