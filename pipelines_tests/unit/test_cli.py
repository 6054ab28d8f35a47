"""The command line on toys: each command's files, exit codes and sentences."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from dermatome import __version__
from dermatome.classes import TISSUE_LABELS, StainingPattern
from dermatome.cli import app as cli
from dermatome.cli import doctor
from dermatome.cli.support import Mpp
from dermatome.errors import BadSetting, FetchFailed
from dermatome.geometry import Box
from dermatome.labels.npz import load_instances, load_mask, save_instances, save_mask
from dermatome.pipeline.exported import slide_inputs, write_result
from dermatome.registry import version as registry_version
from dermatome.storage.files import sha256_file
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import StageResult, file_facts, write_record
from dermatome.synthetic.hpa_pages import ToyImage, gene_page_xml
from dermatome.synthetic.skin import toy_slide
from pipelines_tests.faulty_hpa_server import FaultyHpaServer
from pipelines_tests.records import put_record, record_of
from pipelines_tests.toy_tiles import write_tiles


@pytest.fixture(scope="module")
def toy():
    return toy_slide(3, StainingPattern.BASAL, size_px=448)


@pytest.fixture
def images(toy, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "good.jpg").write_bytes(toy.jpeg())
    return folder


def run(capfd, *arguments):
    """Runs `dermatome` with these arguments in this process: exit code, output, errors."""
    before, sys.argv = sys.argv, ["dermatome", *map(str, arguments)]
    capfd.readouterr()
    try:
        cli.main()
        code: Any = 0
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = before
    output, errors = capfd.readouterr()
    return int(code), output, errors


def test_help_is_quick_and_imports_nothing_heavy():
    script = (
        "import sys; from dermatome.cli import app; heavy = {'torch', 'cellpose', 'matplotlib', 'pandas', 'cv2'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_every_command_has_help():
    def paths(command, words=()):
        if isinstance(command, typer.core.TyperGroup):
            for name, child in command.commands.items():
                yield from paths(child, (*words, name))
        yield words

    found = list(paths(typer.main.get_command(cli.app)))
    assert len(found) > 25
    for words in found:
        done = CliRunner().invoke(cli.app, [*words, "--help"])
        assert (done.exit_code, "--help" in done.stdout) == (0, True), words


def test_the_version_is_printed(capfd):
    assert run(capfd, "--version") == (0, f"dermatome {__version__}\n", "")


def test_a_shell_completes_commands_and_options():
    for words, number, found in (
        ("dermatome tis", "1", "tissue"),
        ("dermatome layers measure --lay", "3", "--layer-um"),
    ):
        asked = {"_DERMATOME_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": number}
        assert CliRunner().invoke(cli.app, [], prog_name="dermatome", env=asked).stdout.split() == [found]


LONG = "x" * 300


@pytest.mark.parametrize(
    "command",
    [
        "hpa parse {images} --out {out}/r.parquet",
        f"hpa parse {LONG} --out {{out}}/r.parquet",
        "hpa fetch genes.tsv --out {out}",
        "tissue predict {image} --weights {images} --out {out}",
        "tissue predict {image} --weights w --out {out} --mpp nan",
        f"tissue predict {{image}} --weights {LONG} --out {{out}}",
        "tissue train --tiles {image} --out {out}/w.safetensors",
        "tissue train --tiles {images} --out {out}/w.safetensors --max-minutes nan",
        "tissue train --out {out}/w.safetensors",
        "tissue import-weights {images} --out {out}/w.safetensors --encoder resnet18 --mpp 0.5",
        "cells segment {image} --tissue {image} --weights toy --out {out}",
        "cells segment {image} --tissue {images} --weights toy --out {out} --diameter-um -3",
        "layers measure {image} --tissue {images} --cells {images} --out {out} --layer-um nan",
        f"layers measure {LONG}.png --tissue {{images}} --cells {{images}} --out {{out}}",
        "nuclei patches {images} --out {out}",
        "nuclei patches {images} --out {out} --size-px -1",
        "nuclei patches {images} --out {out} --size-px 10000000",
        "nuclei patches {images} --out {out} --validation-share nan",
        "nuclei predict {image} --weights toy --out {out} --mpp -1",
        "nuclei predict {image} --weights toy --out {out} --opacity nan",
        "nuclei predict {image} --weights toy --out {out} --threads 100000",
        "nuclei score --patches {images} --weights toy",
        f"nuclei train --patches {LONG} --out {{out}}/w.safetensors",
        "web --data {image}",
        "web --data {out} --port 99999999",
        "web --data {out} --frame-site https://a;script-src",
        f"web --data {{out}} --host {LONG}",
    ],
)
def test_wrong_values_are_sentences(images, tmp_path, capfd, command):
    named = command.format(images=images, image=images / "good.jpg", out=tmp_path / "out")
    code, output, errors = run(capfd, *named.split())
    assert code == (2 if "Usage" in errors else 1), output
    assert errors.strip()
    assert "Traceback" not in errors
    assert "defect" not in errors


def test_pages_become_one_row_for_each_image_and_bad_ones_are_named(tmp_path, capfd):
    shots = [ToyImage("373", "1_A_1_2"), ToyImage("373", "1_A_2_2", sex="Male", age="40")]
    for number, gene in ((1, "KRT5"), (2, "KRT10")):
        page = gene_page_xml(gene, f"ENSG0000000000{number}", "https://www.proteinatlas.org", shots)
        (tmp_path / f"{gene}.xml").write_bytes(page)
    (tmp_path / "bad.xml").write_text("not XML")
    out = tmp_path / "records.parquet"
    pages = [tmp_path / name for name in ("KRT5.xml", "bad.xml", "KRT10.xml", "none.xml")]
    code, output, errors = run(capfd, "hpa", "parse", *pages, "--tissue", "Skin", "--out", out)
    assert code == 1
    assert "bad.xml" in errors
    assert "none.xml" in errors
    assert "Traceback" not in errors
    assert "4 image records of 2 pages" in output
    rows = pq.read_table(out).to_pylist()
    assert [row["gene"] for row in rows] == ["KRT5", "KRT5", "KRT10", "KRT10"]
    wanted = {"gene", "ensembl_id", "antibody", "tissue", "image_url", "sex", "age", "patient_id"}
    assert wanted <= set(rows[0])
    assert run(capfd, "hpa", "parse", pages[0], "--out", out)[0] == 0
    code, printed, _ = run(capfd, "hpa", "parse", pages[0], "--out", "-")
    assert printed.startswith("slide,gene,ensembl_id,")
    assert run(capfd, "hpa", "parse", pages[0], "--out", tmp_path / "records.csv")[0] == 0
    assert (code, (tmp_path / "records.csv").read_text()) == (0, printed)
    assert run(capfd, "hpa", "parse", pages[0], "--out", tmp_path / "records.txt")[0] == 2
    code, _, errors = run(capfd, "hpa", "parse", pages[0], "--tissue", "Skni", "--out", out)
    assert (code, "choose one of Liver, Skin 1." in errors) == (1, True)


def test_genes_are_fetched_once_and_completed_when_run_again(toy, tmp_path, capfd):
    gene, other, unknown = (f"ENSG0000000000{number}" for number in (1, 2, 9))
    shots = [ToyImage("373", "1_A_1_2"), ToyImage("373", "1_A_2_2"), ToyImage("374", "2_A_1_2")]
    good = toy.jpeg()
    with FaultyHpaServer(images={shots[0].path: good, shots[1].path: good[: len(good) // 2]}) as server:
        server.pages[gene] = gene_page_xml("KRT5", gene, server.url, shots[:2])
        server.pages[other] = gene_page_xml("KRT10", other, server.url, shots[2:])
        hosts = f'base_url = "{server.url}"\narchive_urls = []\nallowed_hosts = ["127.0.0.1"]\nretries = 0\n'
        (tmp_path / "settings.toml").write_text(f"[hpa]\n{hosts}")
        (tmp_path / "genes.txt").write_text(f"{other} KRT10\n{gene}\n")
        out = tmp_path / "out"
        command = ("hpa", "fetch", gene, unknown, tmp_path / "genes.txt", "--data", tmp_path, "--out", out)
        code, output, errors = run(capfd, *command)
        assert code == 1
        assert all(text in errors for text in (unknown, "2_A_1_2.jpg is not there", "cut short", "2 of 3 images"))
        assert "373-1_A_1_2.jpg: " in output
        assert [file.name for file in (out / "images").iterdir()] == ["373-1_A_1_2.jpg"]
        assert pq.read_table(out / "images.parquet")["ensembl_id"].to_pylist() == [gene, gene, other]

        server.images |= {shots[1].path: good, shots[2].path: good}
        assert run(capfd, *command)[0] == 1
        assert sorted(file.read_bytes() == good for file in (out / "images").iterdir()) == [True] * 3
        before = len(server.requests)
        code, output, _ = run(capfd, "hpa", "fetch", gene, other, "--data", tmp_path, "--out", out)
        assert (code, len(server.requests)) == (0, before)
        assert output.count("kept") == 5
        assert server.count(f"/{gene}.xml") == server.count(shots[0].path) == server.most_at_once == 1
        assert run(capfd, "hpa", "fetch", other, "--data", tmp_path, "--out", out)[0] == 0
        assert pq.read_table(out / "images.parquet").num_rows == 3
        code, _, errors = run(capfd, "hpa", "fetch", gene, "--tissue", "Skni", "--data", tmp_path, "--out", out)
        assert (code, "choose one of Liver, Skin 1." in errors) == (1, True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two tiles, one epoch: enough to write weights that load."""
    tiles = tmp_path_factory.mktemp("tiles")
    write_tiles(tiles, [toy_slide(seed, size_px=256, name=f"t{seed}") for seed in range(2)])
    out = tiles / "out" / "weights.safetensors"
    arguments = ["--tiles", tiles, "--out", out, "--report", tiles / "report"]
    short = ["--epochs", 1, "--epoch-steps", 2, "--batch", 2, "--crop-px", 64, "--threads", 1]
    done = CliRunner().invoke(cli.app, ["tissue", "train", *map(str, [*arguments, *short])])
    return done.exit_code, done.output, out


def test_training_is_fine_tuned_from_a_file(trained, tmp_path, capfd, monkeypatch):
    weights = trained[2]
    requested: dict[str, Any] = {}

    def train_file(task, out, compute, **options):
        requested.update(options, settings=task.settings)
        raise BadSetting("Seen.")

    monkeypatch.setattr(registry_version, "train_file", train_file)
    arguments = ["--tiles", weights.parents[1], "--out", tmp_path / "w.safetensors", "--continue-from", weights]
    code, _, errors = run(capfd, "tissue", "train", *arguments, "--patience", 3, "--threads", 1)
    assert (code, "Seen." in errors) == (1, True)
    assert requested["lineage"].weights.path == weights
    assert (requested["settings"].encoder, requested["settings"].network_mpp) == ("timm-tf_efficientnet_lite0", 2.0)
    assert requested["settings"].patience == 3
    assert set(requested["lineage"].sides().values()) == {"train", "validation"}


def test_without_tiles_training_draws_synthetic_ones(tmp_path, capfd, monkeypatch):
    tasks: list[Any] = []

    def train_file(task, out, compute, **options):
        tasks.append(task)
        assert all(tile.read()[0].shape == (256, 256, 3) for tile in (*task.split.train, *task.split.validation))
        raise BadSetting("Seen.")

    monkeypatch.setattr(registry_version, "train_file", train_file)
    given = ["--synthetic", "--max-minutes", 0.5, "--out", tmp_path / "w.safetensors", "--threads", 1]
    code, _, errors = run(capfd, "tissue", "train", *given)
    assert (code, "Seen." in errors) == (1, True), errors
    (task,) = tasks
    assert len(task.split.train) + len(task.split.validation) == 16
    assert task.split.validation
    assert (task.settings.synthetic, task.settings.mpp, task.settings.network_mpp) == (True, 1.0, 1.0)
    assert not task.split.train[0].image_path.exists()  # the drawn tiles are gone after training


def test_training_writes_weights_that_predict_masks(trained, images, toy, tmp_path, capfd):
    trained_code, said, weights = trained
    assert trained_code == 0, said
    assert weights.with_suffix(".json").is_file()
    assert "sha256" in said
    assert (weights.parents[1] / "report" / "report.html").is_file()
    (images / "cut.jpg").write_bytes(toy.jpeg()[:2000])
    # Names as scanners and annotation tools give them.
    (images / "core A1.[9728x1536].jpg").write_bytes(toy.jpeg())
    out = tmp_path / "masks"
    command = ("tissue", "predict", "--backend", "torch", "--weights", weights, "--out", out)
    code, output, errors = run(capfd, *command, images)
    assert code == 1
    assert "cut.jpg" in errors
    assert "1 of 3 images failed" in errors
    assert "good.jpg" in output
    mask, _ = load_mask(out / "good.npz", size=toy.slide.size)
    assert mask.max() < len(TISSUE_LABELS)
    with Image.open(out / "good.png") as drawn:
        assert min(drawn.size) > 448
    ends = ("geojson", "json", "npz", "ome.tif", "png")
    names = [f"{stem}.{end}" for stem in ("core A1.[9728x1536]", "good") for end in ends]
    assert sorted(path.name for path in out.iterdir()) == names
    before = (out / "good.npz").stat().st_mtime_ns
    again = (*command, images / "good.jpg")
    assert "kept" in run(capfd, *again)[1]
    assert (out / "good.npz").stat().st_mtime_ns == before
    assert "kept" not in run(capfd, *again, "--any-scale")[1], "another setting is another result"
    assert "kept" not in run(capfd, *again, "--any-scale", "--overwrite")[1]


def test_a_missing_weights_file_is_one_sentence(images, tmp_path, capfd):
    code, _, errors = run(capfd, "tissue", "predict", "--weights", tmp_path / "w", "--out", tmp_path / "o", images)
    assert code == 1
    assert len(errors.strip().splitlines()) == 1
    code, _, errors = run(
        capfd, "cells", "segment", "--tissue", tmp_path, "--weights", tmp_path / "w", "--out", tmp_path / "o", images
    )
    assert code == 1
    assert "cell network weights" in errors


@pytest.fixture
def results(toy, tmp_path):
    """The truth as the stages before would have written it."""
    tissue, cells = tmp_path / "tissue", tmp_path / "cells"
    save_mask(tissue / "good.npz", toy.mask, Box.whole(toy.slide.size))
    save_instances(cells / "good.npz", toy.instances)
    area = np.bincount(toy.instances.ravel())[1:]
    diameter_um = np.sqrt(4 * area / np.pi) * toy.slide.mpp
    table = pd.DataFrame({"cell_id": np.arange(1, area.size + 1), "equivalent_diameter_um": diameter_um})
    table.to_parquet(cells / "good.parquet")
    return tissue, cells


def test_layers_are_measured_for_all_images_and_failures_named(toy, images, results, tmp_path, capfd):
    tissue, cells = results
    (images / "unmasked.jpg").write_bytes(toy.jpeg())
    out = tmp_path / "layers"
    code, output, errors = run(capfd, "layers", "measure", "--tissue", tissue, "--cells", cells, "--out", out, images)
    assert code == 1
    assert "unmasked.npz" in errors
    assert "basal staining" in output
    table = pd.read_parquet(out / "layers.parquet")
    assert set(table["slide"]) == {"good"}
    assert table["layer"].tolist() == list(range(1, len(table) + 1))
    assert table["mean_dab_od"].iloc[0] > 3 * table["mean_dab_od"].iloc[-1]
    with Image.open(out / "good.png") as drawn:
        assert min(drawn.size) > 500


def test_results_of_another_image_are_refused(images, results, tmp_path, capfd):
    tissue, cells = results
    Image.new("RGB", (300, 300)).save(images / "good.jpg")
    code, _, errors = run(
        capfd, "layers", "measure", "--tissue", tissue, "--cells", cells, "--out", tmp_path / "o", images
    )
    assert code == 1
    assert "300×300" in errors
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("stage", ["tissue", "cells"])
def test_results_at_another_scale_are_refused(toy, images, results, tmp_path, capfd, stage):
    tissue, cells = results
    folder = {"tissue": tissue, "cells": cells}[stage]
    there = {path.name: path.read_bytes() for path in folder.iterdir()}

    def write(place):
        for name, data in there.items():
            (place / name).write_bytes(data)
        return StageResult("tissue", "", {})

    write_result(folder, "good", stage, "good", slide_inputs(toy.slide), {}, write)
    arguments = ("layers", "measure", "--tissue", tissue, "--cells", cells, "--out", tmp_path / "o", images)
    code, _, errors = run(capfd, *arguments, "--mpp", "0.4")
    assert code == 1
    assert f"{folder}/good.json states 0.5 µm per pixel, and good is read at 0.4" in errors
    assert run(capfd, *arguments, "--mpp", "0.5")[0] == 0


def test_cells_of_an_empty_mask_are_an_outcome(toy, images, tmp_path, capfd):
    assert "toy" in run(capfd, "cells", "segment", "--help")[1]
    save_mask(tmp_path / "tissue" / "good.npz", np.zeros_like(toy.mask), Box.whole(toy.slide.size))
    folders = ("--tissue", tmp_path / "tissue", "--out", tmp_path / "out")
    code, output, errors = run(capfd, "cells", "segment", "--weights", "toy", "--backend", "torch", *folders, images)
    assert code == 0, errors
    assert "no epidermis" in output
    assert not load_instances(tmp_path / "out" / "good.npz", size=toy.slide.size).any()
    table = pd.read_parquet(tmp_path / "out" / "good.parquet")
    assert table.empty
    assert "Warning: The network was trained on synthetic images only" in errors
    assert "synthetic" in table.attrs["warning"]
    folders = ("--tissue", tmp_path / "tissue", "--cells", tmp_path / "out", "--out", tmp_path / "layers")
    code, _, errors = run(capfd, "layers", "measure", *folders, images)
    assert code == 0, errors
    assert errors.count("Warning: ") == 1, "what cells say, layers repeat"


def test_cyto2_is_fetched_into_the_users_cache_or_the_folder_named(images, tmp_path, capfd, monkeypatch):
    from dermatome.skin.cells import cyto2

    asked: list[Path] = []

    def fetch(folder):
        asked.append(folder)
        raise FetchFailed("No connection: place the files by hand.")

    monkeypatch.setattr(cyto2, "fetch_cyto2", fetch)
    monkeypatch.setenv("HOME", str(tmp_path))
    command = ("cells", "segment", "--tissue", tmp_path, "--weights", "cyto2", "--out", tmp_path / "o", images)
    for more in ((), ("--models", tmp_path / "m")):
        code, _, errors = run(capfd, *command, *more)
        assert (code, errors) == (1, "No connection: place the files by hand.\n")
    assert asked == [tmp_path / ".cache" / "dermatome" / "models", tmp_path / "m"]


def test_two_images_of_one_name_do_not_overwrite_each_other(toy, images, results, tmp_path, capfd):
    tissue, cells = results
    (images / "good.png").write_bytes(toy.jpeg())
    code, _, errors = run(
        capfd, "layers", "measure", "--tissue", tissue, "--cells", cells, "--out", tmp_path / "o", images
    )
    assert code == 1
    assert "same name" in errors


def test_an_empty_folder_and_an_absent_device_are_one_sentence(tmp_path, capfd):
    code, _, errors = run(capfd, "layers", "measure", "--tissue", "t", "--cells", "c", "--out", "o", tmp_path)
    assert code == 1
    assert "contains no image" in errors
    code, output, _ = run(capfd, "doctor", "--no-network", "--device", "mps", "--data", tmp_path)
    if sys.platform == "linux":
        assert code == 1
        assert "requested" in output


def test_the_doctor_says_what_is_there_and_what_is_not(tmp_path, trained, capfd):
    weights = trained[2]
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    code, output, _ = run(
        capfd, "doctor", "--no-network", "--data", tmp_path / "later" / "on", "--models", tmp_path,
        "--weights", weights, "--weights", tmp_path / "bad.safetensors",
    )  # fmt: skip
    assert code == 1
    lines = output.splitlines()
    assert any(line.startswith("ok") and "tissue, timm-tf_efficientnet_lite0" in line for line in lines)
    assert any(line.startswith("fail") and "bad.safetensors" in line for line in lines)
    assert any(line.startswith("warn") and "cyto2" in line for line in lines)
    assert any(line.startswith("ok") and "torch" in line for line in lines)
    assert any("GB free" in line for line in lines)
    code, output, _ = run(capfd, "doctor", "--no-network", "--data", tmp_path, "--json")
    assert code == 0
    assert {finding["topic"] for finding in json.loads(output)} >= {"versions", "device", "disk"}


def test_the_doctor_loads_the_networks_of_a_data_root(tmp_path, trained):
    def networks():
        found = doctor.examine([], str(tmp_path), ask_network=False)
        return [(finding.state, finding.message) for finding in found if finding.topic == "networks"]

    tissue, cells, nuclei = networks()
    assert (tissue[0], cells[0], nuclei[0]) == ("ok", "warn", "warn")
    assert "starter" in tissue[1]
    assert "cyto2torch_0" in cells[1]
    assert not (tmp_path / "models").exists()

    (tmp_path / "settings.toml").write_text('cell_weights = "toy"\nnuclei_weights = "toy"\n')
    folder = tmp_path / "tissue_weights" / "v001"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(trained[2].read_bytes())
    sha256 = sha256_file(trained[2])
    chosen = {"version": "v001", "weights_sha256": sha256}
    put_record(DataRoot(tmp_path), "tissue_champion", "current", values=chosen)
    assert [state for state, _ in networks()] == ["ok", "ok", "ok"]
    assert networks()[0][1] == f"tissue network v001 (champion), sha256 {sha256}"

    damaged = bytearray(trained[2].read_bytes())
    damaged[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(damaged)
    assert networks()[0][0] == "fail"
    assert "not those that were chosen" in networks()[0][1]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("settings_folder", "settings.toml cannot be read"),
        ("file", "is a file: name a folder"),
        ("loop", "is no path of a folder"),
        ("x" * 5000, "is no path of a folder"),
        ("null\0byte", "is no path of a folder"),
    ],
    ids=["settings are a folder", "file", "links in a circle", "too long", "null byte"],
)
def test_the_doctor_ends_its_checks_on_a_root_that_is_none(tmp_path, place, says):
    (tmp_path / "settings_folder" / "settings.toml").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    findings = list(doctor.examine([], f"{tmp_path}/{place}", ask_network=False))
    (network,) = (finding for finding in findings if finding.topic == "networks")
    assert network.state == "fail"
    assert says in network.message
    assert len(network.message) < 500
    assert findings[-1].topic == "disk"


def test_no_network_is_a_warning(tmp_path):
    findings = {f.topic: f for f in doctor.examine([], str(tmp_path), atlas_url="http://127.0.0.1:9/")}
    assert findings["network"].state == "warn"
    assert "No answer" in findings["network"].message


@pytest.mark.parametrize(("arguments", "kind"), [([], "float"), (["--mpp", "0.5"], "GivenMpp")])
def test_a_scale_that_is_given_differs_from_the_default(arguments, kind):
    app = typer.Typer()

    @app.command()
    def show(mpp: Mpp = 0.5):
        typer.echo(type(mpp).__name__)

    assert CliRunner().invoke(app, arguments).stdout.strip() == kind


def test_verify_lists_damaged_files_and_fails(tmp_path, capfd):
    for key in ("s1", "s2"):
        folder = tmp_path / "cell_masks" / key
        folder.mkdir(parents=True)
        (folder / "cells.parquet").write_bytes(b"rows")
        write_record(folder / "record.json", record_of("cell_masks", key, outcome="cells", files=file_facts(folder)))
    assert run(capfd, "verify", "--data", tmp_path)[:2] == (0, "2 partitions were checked, and 0 are damaged.\n")
    (tmp_path / "cell_masks" / "s2" / "cells.parquet").write_bytes(b"rowt")
    code, said, _ = run(capfd, "verify", "--data", tmp_path)
    assert code == 1
    assert re.search("^cell_masks +s2 +cells.parquet: has different content\n2 partitions.* 1 are damaged", said)
    code, said, _ = run(capfd, "verify", "--data", tmp_path, "--json")
    damaged = [{"asset": "cell_masks", "partition": "s2", "files": {"cells.parquet": "has different content"}}]
    assert (code, json.loads(said)) == (1, {"checked": 2, "damaged": damaged})
