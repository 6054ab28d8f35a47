"""Crates of a small study: what they hold, the same computed again, and files that pretend to be one."""

import hashlib
import json
import pickle
import shutil
import stat
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from dermatome.errors import BadSetting, MissingInput, StorageFailed
from dermatome.hpa.pages import parse_page
from dermatome.hpa.records import RECORDS_FILE, write_records
from dermatome.skin.crate.export import export_crate
from dermatome.skin.crate.replay import Crate
from dermatome.skin.tissue.network import load_tissue_weights
from dermatome.skin.tissue.networks import STARTER_WEIGHTS
from dermatome.slides.source import SlideSource
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import read_record, write_record
from dermatome.synthetic.hpa_pages import ToyImage, gene_page_xml
from dermatome.synthetic.skin import toy_slide
from pipelines_tests.records import put_record, record_of
from pipelines_tests.toy_root import put_cells_and_layers, put_images, put_masks
from pipelines_tests.unit.test_cli import run

GENE, ENSEMBL = "TOY1", "ENSG00000000001"
SLIDES = ["9-1_A", "9-2_A"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with the data root, the images' folder and the crate of a gene of two slides."""
    folder = tmp_path_factory.mktemp("study")
    root = DataRoot(folder / "data")
    page = parse_page(gene_page_xml(GENE, ENSEMBL, "http://127.0.0.1", [ToyImage("9", "1_A"), ToyImage("9", "2_A")]))
    rows = page.records.to_pylist()
    put_record(root, "hpa_images", ENSEMBL, values={"gene": GENE, "attribution": "Credit: HPA"})
    write_records(page.records, root.folder("hpa_images", ENSEMBL) / RECORDS_FILE)
    slides = {slide: toy_slide(number, size_px=416) for number, slide in enumerate(SLIDES, 3)}
    sources = {row["slide"]: SlideSource(row["slide"], "hpa", row["image_url"], GENE, ENSEMBL) for row in rows}
    put_images(root, folder / "images", slides, sources)
    put_masks(root, SLIDES, load_tissue_weights(STARTER_WEIGHTS))
    put_cells_and_layers(root, SLIDES)
    export_crate(root, folder / "study.crate.zip", [GENE])
    return folder


def entities(crate):
    with zipfile.ZipFile(crate) as archive:
        return {one["@id"]: one for one in json.loads(archive.read("ro-crate-metadata.json"))["@graph"]}


def test_a_crate_has_results_weights_cards_and_licences_and_no_image(study):
    from rocrate.rocrate import ROCrate

    crate, found = study / "study.crate.zip", entities(study / "study.crate.zip")
    read = ROCrate(str(crate))
    assert GENE in read.name
    assert "CC BY-SA" in read.license["name"]
    assert {"name", "description", "datePublished", "license", "hasPart", "creditText"} <= set(found["./"])
    with zipfile.ZipFile(crate) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if name != "ro-crate-metadata.json"}
    assert set(files) == {name for name, one in found.items() if one["@type"] == "File"}
    for name, data in files.items():
        assert hashlib.sha256(data).hexdigest() == found[name]["sha256"], name
    assert not any(name.endswith(("image.jpg", "preview.webp")) and "slide_images" in name for name in files)
    root = DataRoot(study / "data")
    for slide in SLIDES:
        image = read_record(root.record("slide_images", slide)).values
        shown = found[f"#image-{slide}"]
        assert (shown["sha256"], shown["contentUrl"]) == (image["image_sha256"], image["location"])
        for asset in ("epidermis_masks", "cell_masks", "epidermis_layers"):
            record = read_record(root.record(asset, slide))
            assert found[f"data/{asset}/{slide}/"]["version"] == record.data_version
            assert {f"data/{asset}/{slide}/{name}" for name in (*record.files, "record.json")} <= set(files)
    masks, cells = (read_record(root.record(asset, SLIDES[0])) for asset in ("epidermis_masks", "cell_masks"))
    for record in (masks, cells):
        sha256 = record.values["weights_sha256"]
        assert {f"weights/{sha256}.safetensors", f"weights/{sha256}.json"} <= set(files)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_is_computed_again_with_any_number_of_threads(study, tmp_path, capfd, threads):
    kept = tmp_path / "again"
    asked = ("replay", study / "study.crate.zip", "--images", study / "images", "--device", "cpu")
    code, output, errors = run(capfd, *asked, "--threads", threads, "--keep", kept)
    assert code == 0, errors
    for asset in ("slide_images", "epidermis_masks", "cell_masks", "epidermis_layers"):
        assert f"{asset}: 2 of 2 equal" in output
    for slide in SLIDES:
        first, again = (Path(base) / "epidermis_layers" / slide for base in (study / "data", kept))
        assert (first / "layers.parquet").read_bytes() == (again / "layers.parquet").read_bytes()
    code, _, errors = run(capfd, *asked, "--keep", kept)
    assert code == 1
    assert "is not empty: replay into a new one" in errors


def rewritten(crate, out, change):
    """A copy of a crate in which ``change`` gave each file other bytes, or None to leave it out."""
    with zipfile.ZipFile(crate) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            if (data := change(name, source.read(name))) is not None:
                target.writestr(name, data)
    return out


def record_file(tmp_path, record):
    write_record(tmp_path / "r.json", record)
    return (tmp_path / "r.json").read_bytes()


def test_a_data_version_that_does_not_come_out_again_is_named(study, tmp_path, capfd):
    record = read_record(DataRoot(study / "data").record("epidermis_layers", SLIDES[0]))
    other = record_file(tmp_path, replace(record, data_version="0" * 32, libraries={"numpy": "1.0"}))
    of_record = f"data/epidermis_layers/{SLIDES[0]}/record.json"
    crate = rewritten(
        study / "study.crate.zip", tmp_path / "c.zip", lambda name, data: other if name == of_record else data
    )
    code, output, errors = run(capfd, "replay", crate, "--images", study / "images", "--device", "cpu")
    assert code == 1
    assert "cell_masks: 2 of 2 equal" in output
    assert "epidermis_layers: 1 of 2 equal" in output
    assert f"epidermis_layers of {SLIDES[0]}: {record.data_version} instead of {'0' * 32}" in errors
    assert "other versions: numpy 1.0 (here " in errors


def test_a_missing_image_and_a_missing_network_are_named(study, tmp_path, capfd):
    (images := tmp_path / "images").mkdir()
    shutil.copy(study / "images" / f"{SLIDES[0]}.jpg", images / "renamed.jpg")
    (images / "other.jpg").write_bytes(b"\0" * (study / "images" / f"{SLIDES[1]}.jpg").stat().st_size)
    crate = rewritten(
        study / "study.crate.zip", tmp_path / "c.zip", lambda name, data: data if "weights/" not in name else None
    )
    code, output, errors = run(capfd, "replay", crate, "--images", images, "--device", "cpu")
    assert code == 1
    assert "slide_images: 1 of 2 equal" in output
    assert f"slide_images of {SLIDES[1]}: " in errors
    assert "127.0.0.1" in errors, "its address is not one of HPA, so it is not asked"
    assert f"epidermis_masks of {SLIDES[0]}: The network v001 (sha256 " in errors
    assert "is not in the crate: ask its author for it" in errors
    assert "epidermis_masks: 0 of 2 equal" in output


class Opens:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path(Opens.target),)


def test_weights_that_are_a_pickle_are_not_opened(study, tmp_path, capfd):
    Opens.target = str(tmp_path / "opened")
    crate = rewritten(
        study / "study.crate.zip",
        tmp_path / "c.zip",
        lambda name, data: pickle.dumps(Opens()) if name.endswith(".safetensors") else data,
    )
    code, _, errors = run(capfd, "replay", crate, "--images", study / "images", "--device", "cpu")
    assert code == 1
    assert "safetensors" in errors
    assert not Path(Opens.target).exists()


def test_names_of_a_crate_lead_nowhere(study, tmp_path):
    (tmp_path / "in").mkdir()
    evil = tmp_path / "evil.zip"
    shutil.copy(study / "study.crate.zip", evil)
    link = zipfile.ZipInfo("weights/" + "0" * 64 + ".safetensors")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(evil, "a") as archive:
        for name in (
            "../out.json", "/tmp/out.json", "data/cell_masks/../../../out/record.json", "weights/../out.safetensors",
            "data\\cell_masks\\x\\record.json", "C:/out.json",
        ):  # fmt: skip
            archive.writestr(name, b"x")
        archive.writestr(link, "/etc/passwd")
    read = Crate(evil, tmp_path / "in")
    assert len(read.records) == 4 * len(SLIDES)
    names = {path.name for path in (tmp_path / "in").iterdir()}
    assert all(path.is_file() and not path.is_symlink() for path in (tmp_path / "in").iterdir())
    assert len(names) == 1 + 3, "the last record, two networks, and the link's target as text"
    assert {path.name for path in tmp_path.iterdir()} == {"in", "evil.zip"}


def archive_of(path, *files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return path


def of(slide):
    return f"data/cell_masks/{slide}/record.json"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([("a.txt", b"")], "is not a crate of Dermatome"),
        ([(of("a"), b"0" * (5 << 20))], "is larger than 4 MB"),
        ([(of("a"), b"{}")], "cannot be read"),
        ([(of("a"), record_of("cell_masks", "b"))], "is another's"),
        ([(of("a"), record_of("cell_masks", "a")), (of("a"), record_of("cell_masks", "a"))], "two files of one name"),
    ],
)
def test_what_is_no_crate_is_refused(tmp_path, files, said):
    (tmp_path / "in").mkdir()
    written = [(name, data if isinstance(data, bytes) else record_file(tmp_path, data)) for name, data in files]
    with pytest.raises(StorageFailed, match=said):
        Crate(archive_of(tmp_path / "c.zip", *written), tmp_path / "in")


def test_a_damaged_or_absent_file_is_refused(study, tmp_path):
    (tmp_path / "in").mkdir()
    half = (study / "study.crate.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(half[: len(half) // 2])
    (tmp_path / "bytes.zip").write_bytes(b"PK" + bytes(100))
    with zipfile.ZipFile(tmp_path / "stream.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(of("a"), record_file(tmp_path, record_of("cell_masks", "a")))
    stream = (tmp_path / "stream.zip").read_bytes()
    (tmp_path / "stream.zip").write_bytes(stream[:80] + b"\xff" * 40 + stream[120:])
    for name in ("half.zip", "bytes.zip", "stream.zip"):
        with pytest.raises(StorageFailed, match="cannot be read"):
            Crate(tmp_path / name, tmp_path / "in")
    with pytest.raises(MissingInput, match="There is no crate"):
        Crate(tmp_path / "absent.zip", tmp_path / "in")


def copied(study, tmp_path):
    return DataRoot(shutil.copytree(study / "data", tmp_path / "data"))


def test_slides_without_current_results_are_left_out_with_their_reason(study, tmp_path):
    root = copied(study, tmp_path)
    path = root.record("epidermis_masks", SLIDES[0])
    write_record(path, replace(read_record(path), data_version="another"))
    done = export_crate(root, tmp_path / "c.zip", [ENSEMBL.lower()])
    assert (done.genes, done.slides, done.weights_left_out) == ([ENSEMBL], [SLIDES[1]], {})
    assert "were computed from earlier epidermis_masks" in done.left_out[SLIDES[0]]
    shutil.rmtree(root.folder("epidermis_layers", SLIDES[1]))
    with pytest.raises(MissingInput, match="None of the slides has current layers"):
        export_crate(root, tmp_path / "d.zip")
    assert not (tmp_path / "d.zip").exists()


def test_a_network_that_is_lost_is_named_by_its_sha256(study, tmp_path, capfd):
    root = copied(study, tmp_path)
    shutil.rmtree(root.folder("tissue_weights"))
    code, output, errors = run(capfd, "export", "crate", "--all", "--data", root.path, "--out", tmp_path / "c.zip")
    assert code == 0
    assert "1 genes and 2 slides" in output
    sha256 = read_record(root.record("epidermis_masks", SLIDES[0])).values["weights_sha256"]
    assert f"The network v001 is listed by its sha256 only ({sha256})" in errors


def test_what_cannot_be_exported_is_said(study, tmp_path, capfd, monkeypatch):
    root = copied(study, tmp_path)
    out = ("--data", root.path, "--out", tmp_path / "c.zip")
    assert run(capfd, "export", "crate", *out)[0] == run(capfd, "export", "crate", GENE, "--all", *out)[0] == 2
    code, _, errors = run(capfd, "export", "crate", "KRT5", *out)
    assert (code, "The gene KRT5 is not in" in errors) == (1, True)
    (root.folder("cell_masks", SLIDES[0]) / "cells.geojson").write_text("{}")
    code, _, errors = run(capfd, "export", "crate", GENE, *out)
    assert (code, "cells.geojson in the cell_masks of" in errors) == (1, True)
    monkeypatch.setitem(sys.modules, "rocrate.rocrate", None)
    with pytest.raises(BadSetting, match=r"pip install 'dermatome\[crate\]'"):
        export_crate(root, tmp_path / "c.zip")
    assert not (tmp_path / "c.zip").exists()
