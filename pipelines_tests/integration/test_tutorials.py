"""What the documentation tells people to type: the tutorials' commands run on small input; all others are accepted."""

import json
import re
import shlex
import tomllib

import dagster as dg
import duckdb
import pandas as pd
import pytest
import tifffile
import typer
import yaml
from PIL import Image
from typer.testing import CliRunner

from dermatome.classes import StainingPattern
from dermatome.cli.app import app
from dermatome.geometry import Size
from dermatome.labels.palette import Palette, classes_to_rgb
from dermatome.synthetic.nuclei import toy_nuclei
from dermatome.synthetic.skin import ToyStain, toy_slide
from dermatome.warehouse.store import build_store
from orchestration.definitions import build_defs
from orchestration.jobs import register_genes
from pipelines_tests.e2e.platform import CHECKOUT
from pipelines_tests.nuclei_case import save_toy_case

DOCS = CHECKOUT / "docs"
FENCE = re.compile(r"^ *```(\w+)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"(?:sensors?|schedules?|jobs?|[Mm]aterialize) ((?:`\w+`(?:, | and |, and )?)+)")
FASTER = ((r"--max-minutes \d+", "--epochs 1 --epoch-steps 2"), ("cyto2", "toy"))
"""Two steps of training, and the network that is shipped in place of the one that is downloaded."""


def blocks(page, language):
    return [text for kind, text in FENCE.findall((DOCS / page).read_text()) if kind == language]


def commands(page):
    """The arguments of each `dermatome` command in the page's blocks."""
    lines = [line.strip() for text in blocks(page, "console") for line in text.splitlines()]
    return [shlex.split(line[2:], comments=True)[1:] for line in lines if line.startswith("$ dermatome ")]


def run_tutorial(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("dermatome.cli.support.MODELS", folder)
    for arguments in commands(page):
        line = shlex.join(arguments)
        for slow, fast in FASTER:
            line = re.sub(slow, fast, line)
        done = CliRunner().invoke(app, shlex.split(line))
        assert done.exit_code == 0, f"dermatome {line}\n{done.output}\n{done.exception!r}"


def test_the_tutorial_on_own_slides(tmp_path, monkeypatch):
    page = "tutorials/own-slides.md"
    (colours,) = blocks(page, "json")
    for folder in ("images", "masks"):
        (tmp_path / "tiles" / folder).mkdir(parents=True)
    (tmp_path / "tiles" / "palette.json").write_text(colours)
    palette = Palette.load(tmp_path / "tiles" / "palette.json")
    for seed in (1, 2):
        toy = toy_slide(seed, size_px=256, stain=ToyStain.IHC)
        Image.fromarray(toy.slide.whole()).save(tmp_path / "tiles" / "images" / f"{seed}.png")
        Image.fromarray(classes_to_rgb(toy.mask, palette)).save(tmp_path / "tiles" / "masks" / f"{seed}.png")
    Image.fromarray(toy_slide(3, StainingPattern.BASAL, size_px=256).slide.whole()).save(tmp_path / "core.png")
    run_tutorial(page, tmp_path, monkeypatch)
    assert "<html" in (tmp_path / "report" / "report.html").read_text()
    assert pd.read_parquet(tmp_path / "layers" / "layers.parquet")["slide"].unique().tolist() == ["core"]
    assert json.loads((tmp_path / "layers" / "core.geojson").read_text())["type"] == "FeatureCollection"


def test_the_tutorial_on_nuclei(tmp_path, monkeypatch):
    for seed, case in enumerate(("p1", "p2")):
        save_toy_case(tmp_path / "annotated" / case, [toy_nuclei(seed, Size(256, 256), mpp=0.25)])
    toy = toy_nuclei(5, Size(256, 256)).slide.whole()
    Image.fromarray(toy).save(tmp_path / "he.png")
    scan = f"Aperio Image Library v11\n256x256|AppMag = 40|MPP = {toy_nuclei(5, Size(64, 64)).slide.mpp}"
    tifffile.imwrite(
        tmp_path / "slide.svs", toy, tile=(128, 128), photometric="rgb", description=scan, metadata=None, software=None
    )
    run_tutorial("tutorials/nuclei.md", tmp_path, monkeypatch)
    assert len(pd.read_parquet(tmp_path / "nuclei" / "he.parquet")) > 5
    assert json.loads((tmp_path / "nuclei" / "slide.json").read_text())["values"]["mpp_source"] == "file"
    assert pd.read_parquet(tmp_path / "til" / "til.parquet")["slide"].tolist() == ["he", "slide"]


def test_the_tutorial_on_genes_has_a_run_config_and_queries_that_work(root):
    page = "tutorials/hpa-study.md"
    (config,) = blocks(page, "yaml")
    assert dg.validate_run_config(register_genes, yaml.safe_load(config))
    (queries,) = blocks(page, "sql")
    with duckdb.connect(str(build_store(root).path), read_only=True) as store:
        for query in re.findall("^from .*?;", queries, re.MULTILINE):
            assert store.sql(query).columns


def test_every_extra_is_listed_with_what_it_is_for():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    listed = re.findall(r"^\| `(\w+)` \|", (DOCS / "start.md").read_text(), re.MULTILINE)
    assert {*listed, "docs", "dev"} == set(project["optional-dependencies"])


def test_the_assets_jobs_sensors_and_schedules_that_pages_name_exist(tmp_path):
    defs = build_defs(tmp_path)
    known = {key.path[-1] for key in defs.resolve_asset_graph().get_all_asset_keys()}
    for kind in (defs.jobs, defs.sensors, defs.schedules):
        known |= {one.name for one in kind}
    named = {
        (page.name, name)
        for page in DOCS.rglob("*.md")
        for found in NAMED.findall(page.read_text())
        for name in re.findall(r"`(\w+)`", found)
    }
    assert len(named) > 20
    assert not [(page, name) for page, name in sorted(named) if name not in known]


def help_examples(command, name=""):
    if hasattr(command, "list_commands"):
        context = command.context_class(command, info_name=name)
        for child in command.list_commands(context):
            yield from help_examples(command.get_command(context, child), child)
    else:
        text = " ".join((command.help or "").split())
        examples = re.findall(r"Example: (dermatome .*?)(?= Example:|$)", text)
        assert examples, f"the help of {name} has no example"
        yield from (shlex.split(line)[1:] for line in examples)


def test_every_command_in_the_documentation_and_in_help_is_accepted():
    found = [line for page in sorted(DOCS.rglob("*.md")) for line in commands(page.relative_to(DOCS))]
    found += list(help_examples(typer.main.get_command(app)))
    assert len(found) > 25
    for arguments in found:
        command, left = typer.main.get_command(app), list(arguments)
        while hasattr(command, "list_commands"):
            context = command.context_class(command, info_name="dermatome")
            command = command.get_command(context, left.pop(0))
            assert command is not None, arguments
        command.make_context("dermatome", left)  # a usage error is raised
    with pytest.raises(Exception, match="No such option"):
        command.make_context("dermatome", ["--no-such-option"])
