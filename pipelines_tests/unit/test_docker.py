"""Dockerfile, compose.yaml and Dagster's settings agree with the project and one another. Nothing is built here."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.instance.config import get_default_tick_retention_settings, get_tick_retention_settings
from dagster._core.scheduler.instigation import TickStatus
from typer.main import get_command

from dermatome.cli.app import app
from pipelines_tests.e2e.platform import CHECKOUT

SERVICES = yaml.safe_load((CHECKOUT / "compose.yaml").read_text())["services"]
DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()
SPACE = CHECKOUT / "deploy" / "space"
OURS = ("web", "dagster-web", "dagster-daemon")


def test_there_is_the_app_dagsters_two_and_a_postgres():
    assert set(SERVICES) == {*OURS, "postgres"}
    assert all("healthcheck" in service for service in SERVICES.values())


@pytest.mark.parametrize("name", OURS)
def test_its_command_is_an_installed_one_with_options_that_it_has(name, monkeypatch, capsys):
    program, *options = SERVICES[name]["command"]
    if program == "python":
        assert options.pop(0) == "-m"
        main = import_module(options.pop(0)).main
    else:
        (command,) = entry_points(group="console_scripts", name=program)
        main = command.load()
    helped = [option for option in options if re.fullmatch("[a-z]+", option)][:1]
    for variable, value in (("NO_COLOR", "1"), ("TERM", "dumb"), ("COLUMNS", "200")):
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "argv", [program, *helped, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    said = capsys.readouterr().out
    for option in options:
        assert not option.startswith("--") or option in said


@pytest.mark.parametrize("name", ["web", "dagster-web"])
def test_its_port_is_published_on_this_machine_only_and_is_the_one_that_is_asked_for_its_health(name):
    service = SERVICES[name]
    port = service["command"][service["command"].index("--port") + 1]
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"http://127.0.0.1:{port}/" in service["healthcheck"]["test"][-1]
    assert port in re.search(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)[1].split()


def test_dagster_is_told_what_its_storage_asks_for():
    wanted = set(re.findall(r"env: (\w+)", (CHECKOUT / "dagster.postgres.yaml").read_text()))
    of_image = set(re.findall(r"(DERMATOME_\w+)=", DOCKERFILE))
    for name in ("dagster-web", "dagster-daemon"):
        assert wanted <= set(SERVICES[name]["environment"]) | of_image
        assert set(SERVICES[name]["volumes"]) == {"data:/data", "sockets:/tmp"}
    settings, database = SERVICES["dagster-web"]["environment"], SERVICES["postgres"]["environment"]
    assert (settings["PGUSER"], settings["PGDATABASE"]) == (database["POSTGRES_USER"], database["POSTGRES_DB"])
    assert settings["PGHOST"] in SERVICES


def test_the_image_is_made_of_this_project_pinned_and_not_run_as_root():
    extras = set(re.search(r"--editable '\.\[(.*?)\]'", DOCKERFILE)[1].split(","))
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert extras <= set(project["optional-dependencies"])
    assert "pip install --constraint constraints.txt --editable" in DOCKERFILE
    assert re.search(r"^USER (?!root)", DOCKERFILE, re.MULTILINE)
    images = [re.search(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)[1], SERVICES["postgres"]["image"]]
    assert all(re.search(r":\d+\.\d+", image) for image in images)


def test_what_the_image_needs_is_let_in_and_nothing_else():
    let_in = {line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((CHECKOUT / name).exists() for name in let_in)
    copied = re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert {name.split("/")[0] for line in copied for name in line.split()} - {"."} <= let_in
    assert let_in >= {"dermatome", "resources", "assets", "orchestration", "workspace.yaml", "dagster.postgres.yaml"}


@pytest.mark.skipif(shutil.which("hadolint", path=str(Path(sys.executable).parent)) is None, reason="no hadolint here")
def test_hadolint_finds_nothing():
    files = [CHECKOUT / "Dockerfile", SPACE / "Dockerfile"]
    subprocess.run([Path(sys.executable).with_name("hadolint"), *files], check=True)


def test_the_space_has_front_matter_a_port_and_a_user_that_agree_and_options_that_exist():
    _, front, _ = (SPACE / "README.md").read_text().split("---\n", 2)
    front, docker = yaml.safe_load(front), (SPACE / "Dockerfile").read_text()
    assert front["sdk"] == "docker"
    assert len(front["short_description"]) <= 60
    assert re.search(r"^USER (\d+)", docker, re.MULTILINE)[1] == "1000"
    assert re.search(r"^EXPOSE (\d+)$", docker, re.MULTILINE)[1] == str(front["app_port"])
    assert re.search(r"^FROM (\S+)", docker, re.MULTILINE)[1] == re.search(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)[1]
    extras = re.search(r"\[([\w,]+)\]\"$", docker, re.MULTILINE)[1].split(",")
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert set(extras) <= set(project["optional-dependencies"])
    shell = json.loads(docker.splitlines()[-1].removeprefix("CMD "))[-1].replace("$SPACE_HOST", "me-space.hf.space")
    program, name, *arguments = shlex.split(shell.removeprefix("exec "))
    assert (program, name) == ("dermatome", "web")
    given = get_command(app).get_command(None, name).make_context(name, arguments).params
    assert given["port"] == front["app_port"]
    assert given["allow_host"] == ["me-space.hf.space"]
    assert given["frame_site"] == "https://huggingface.co"


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
