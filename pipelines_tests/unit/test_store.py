import os
import shutil
import subprocess
import sys
import time
import tomllib
from importlib.resources import files

import duckdb
import pandas as pd
import pyarrow as pa
import pytest

from dermatome.storage.layout import RECORD_FILE, DataRoot
from dermatome.storage.record import require_record, write_failure, write_table
from dermatome.warehouse.store import build_store, describe_store
from dermatome.warehouse.tables import TABLES, UNREADABLE, VIEWS, read_by_view, view_definition
from pipelines_tests.records import put_record


def record(root, asset, partition, data_version="v", inputs=None, **values):
    fields = {"data_version": data_version, "inputs": inputs or {}, "settings": {"a": 1}, "values": values}
    put_record(root, asset, partition, **fields)


def table(root, asset, partition, file, **columns):
    write_table(root.folder(asset, partition) / f"{file}.parquet", pa.Table.from_pandas(pd.DataFrame(columns)))


@pytest.fixture
def root(tmp_path):
    root = DataRoot(tmp_path)
    for slide, gene in (("s1", "KRT14"), ("s2", "KRT14"), ("s3", None)):
        record(root, "slide_images", slide, gene=gene, mpp=0.5, image_sha256="i" + slide, conversions=None)
        record(root, "epidermis_masks", slide, weights="v001", weights_sha256="old" if slide == "s2" else "new")
        record(root, "cell_masks", slide, cells=2, cells_per_mm2=5000.0, weights="toy", weights_sha256="c")
        record(root, "epidermis_layers", slide, pattern="basal", h_score=10.0)
        cells = {"cell_id": [1, 2], "area_um2": [50.0, 60.0], "mean_dab_od": [0.1, 0.3]}
        table(root, "cell_masks", slide, "cells", slide=slide, **cells)
        layers = {"layer": [1, 2], "cells": [1, 1], "mean_dab_od": [0.4, 0.2], "mean_h_od": [0.1, 0.1]}
        table(root, "epidermis_layers", slide, "layers", slide=slide, **layers)
        for file in ("relative", "zones"):
            table(root, "epidermis_layers", slide, file, slide=[slide])
    record(root, "tissue_champion", "current", version="v001", weights_sha256="new", chosen_by="mean_iou", score=0.9)
    failed = {"asset": "slide_images", "partition": "s4", "error": "e", "kind": "k", "run_id": "r"}
    write_failure(root.failure("slide_images", "s4"), **failed)
    return root


def ask(store, query):
    with duckdb.connect(str(store), read_only=True) as connection:
        return connection.execute(query).fetchall()


def test_an_empty_root_gives_empty_tables_and_working_views(tmp_path):
    made = build_store(DataRoot(tmp_path))
    assert set(made.rows) == set(TABLES)
    assert sum(made.rows.values()) == 0
    for view in VIEWS:
        assert ask(made.path, f"select * from {view}") == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_needs_no_other_tables_than_it_is_said_to_read(view):
    def create(name):
        if name in VIEWS:
            for read in read_by_view(name):
                create(read)
            connection.execute(view_definition(name))
        else:
            connection.execute(f"create or replace table {name} ({TABLES[name].columns})")

    with duckdb.connect() as connection:
        create(view)


def test_a_store_is_described_with_rows_types_and_meanings(root):
    described = describe_store(build_store(root).path)
    assert list(described) == [*TABLES, UNREADABLE, *VIEWS]
    assert described["slides_not_from_champion"].rows == 1
    assert described["layers"].columns[0] == ("slide", "VARCHAR", "Slide id: the partition key.")


def test_views_answer(root):
    store = build_store(root).path
    profile = "select gene, layer, slides, mean_dab_od from dab_profile_by_gene where gene = 'KRT14' and layer > 0"
    assert ask(store, profile) == [("KRT14", 1, 2, pytest.approx(0.4)), ("KRT14", 2, 2, pytest.approx(0.2))]
    assert ask(store, "select slide from slides_not_from_champion") == [("s2",)]
    cells = ask(store, "select slide, cells, round(mean_dab_od, 3) from cells_by_slide order by slide")
    assert cells[0] == ("s1", 2, 0.2)
    lineage = "select image_sha256, tissue_weights_sha256, cell_weights from lineage where slide = 's1'"
    assert ask(store, lineage) == [("is1", "new", "toy")]
    assert ask(store, "select partition, error from failures") == [("s4", "e")]


def made_of(root, slide, asset, version, *upstream, **values):
    """A record whose inputs are what lies upstream at this moment."""
    inputs = {name: require_record(root, name, slide).data_version for name in upstream}
    record(root, asset, slide, version, {**inputs, "tissue_champion": "of no slide"}, **values)


def make(root, upstream, slide, version, *assets):
    for asset in assets:
        values = {"weights": version} if upstream[asset] else {"image_sha256": version, "gene": slide}
        made_of(root, slide, asset, f"{asset} {version}", *upstream[asset], **values)


def remake(root, upstream):
    """A slide for each number of assets, from the first on, that were computed again after all of them."""
    for made_again in range(len(upstream) + 1):
        make(root, upstream, f"s{made_again}", "old", *upstream)
        make(root, upstream, f"s{made_again}", "new", *list(upstream)[:made_again])


def test_numbers_are_shown_beside_what_they_were_made_from(tmp_path):
    root = DataRoot(tmp_path)
    image, mask, cells, layers = "slide_images", "epidermis_masks", "cell_masks", "epidermis_layers"
    upstream = {image: (), mask: (image,), cells: (image, mask), layers: (image, mask, cells)}
    remake(root, upstream)
    for number in range(5):
        table(root, layers, f"s{number}", "layers", slide=[f"s{number}"], layer=[1], cells=[1])
    make(root, upstream, "same", "old", *upstream)
    made_of(root, "same", mask, f"{mask} old", image, weights="other")
    make(root, upstream, "torn", "old", *upstream)
    make(root, upstream, "torn", "new", image)
    make(root, upstream, "torn", "old", cells, layers)
    store = build_store(root).path
    found = ask(store, "select current, image_sha256, tissue_weights, cell_weights, layer_code from lineage")
    assert found == [
        (True, "old", "old", "old", "1"),
        (False, None, "old", "old", "1"),  # a new image beside an old mask
        (False, None, None, "old", "1"),
        (False, None, None, None, "1"),  # the layers are still of the old cells
        (True, "new", "new", "new", "1"),
        (True, "old", "other", "old", "1"),  # the mask was computed again, and is the same
        (False, None, "old", "old", "1"),  # cells of the new image, but within a mask of the old one
    ]
    assert ask(store, "select gene, slides from dab_profile_by_gene") == [("s0", 1), ("s4", 1)], "current layers only"
    assert ask(store, "select slide from cells_by_slide where not current") == [("s1",), ("s2",), ("torn",)]
    torn = "select asset, upstream, version, version_now from links where slide = 'torn' and not current"
    assert ask(store, torn) == [(mask, image, f"{image} old", f"{image} new")]


def test_til_is_shown_beside_the_nuclei_it_was_made_from(tmp_path):
    root = DataRoot(tmp_path)
    remake(root, {"nuclei_slides": (), "nucleus_maps": ("nuclei_slides",), "til_scores": ("nucleus_maps",)})
    record(root, "slide_images", "s1")
    store = build_store(root).path
    assert ask(store, "select current, image_sha256, map_code, weights from nuclei_lineage") == [
        (True, "old", "1", "old"),
        (False, None, "1", "old"),
        (False, None, None, "old"),  # TIL is of maps that are gone
        (True, "new", "1", "new"),
    ]
    assert ask(store, "select slide, current from lineage") == [("s1", True)], "another slide of that name"


def test_a_repeat_gives_the_same_rows_and_a_reader_is_never_locked_out(root):
    first = build_store(root)
    with duckdb.connect(str(first.path), read_only=True) as reader:
        second = build_store(root)
        assert reader.execute("select count(*) from cells").fetchone() == (6,)
    assert second.rows == first.rows
    assert list(first.path.parent.iterdir()) == [first.path]


def test_damaged_and_missing_files_are_listed_and_stop_nobody_else(root):
    not_made = set(build_store(root).unreadable)  # tables that the slides of these tests do not have
    (root.folder("cell_masks", "s2") / "cells.parquet").write_bytes(b"PAR1 torn PAR1")
    (root.folder("epidermis_layers", "s1") / "layers.parquet").unlink()
    root.record("slide_images", "s3").write_bytes(b"garbage")
    table(root, "cell_masks", "s3", "cells", slide=["s3"], cell_id=["one"])
    for _ in range(2):
        store = build_store(root)
        assert dict(ask(store.path, "from unreadable_files")) == store.unreadable
        assert set(store.unreadable) - not_made == {
            "cell_masks/s2/cells.parquet",
            "cell_masks/s3/cells.parquet",
            "epidermis_layers/s1/layers.parquet",
            f"slide_images/s3/{RECORD_FILE}",
        }
        assert ask(store.path, "select distinct slide from cells") == [("s1",)]
        assert ask(store.path, "select slide from slides order by slide") == [("s1",), ("s2",)]
        assert ask(store.path, "select count(*) from layers") == [(4,)]


@pytest.mark.parametrize(
    ("values", "is_kept"),
    [({'a "quoted" name; --': 1.5}, True), ({"file_id": 1, "FILE_PATH": "x"}, True), ({"mpp": 10**30}, False)],
)
def test_a_record_with_strange_columns_or_numbers_stops_nobody_else(root, values, is_kept):
    record(root, "slide_images", "s5", **values)
    for _ in range(2):
        store = build_store(root)
        assert (f"slide_images/s5/{RECORD_FILE}" in store.unreadable) != is_kept
        assert store.rows["slides"] == 3 + is_kept


def test_a_table_with_strange_columns_stops_nobody_else(root):
    build_store(root)
    table(root, "cell_masks", "s2", "cells", slide=["s2"], cell_id=[7], file_id=[1], **{'a"b': [0.5]})
    table(root, "cell_masks", "s3", "cells", slide=["s3"], cell_id=[[1]], area_um2=[{"a": 1}])
    for _ in range(2):
        store = build_store(root)
        assert "cell_masks/s3/cells.parquet" in store.unreadable
        assert ask(store.path, "select slide, cell_id from cells order by all") == [("s1", 1), ("s1", 2), ("s2", 7)]
    (root.folder("cell_masks", "s2") / "cells.parquet").unlink()
    assert ask(build_store(root).path, "select distinct slide from cells") == [("s1",)]


def test_undeclared_numbers_are_kept_also_by_later_builds(root):
    record(root, "slide_images", "s5", brand_new_number=1)
    for _ in range(2):
        store = build_store(root)
        assert store.undeclared == ("slides.brand_new_number",)
        assert ask(store.path, "select slide from slides where brand_new_number = 1") == [("s5",)]


def test_only_changed_files_are_read_again(root):
    first = build_store(root)
    again = build_store(root)
    assert (again.read, again.kept, again.rows) == (0, first.read, first.rows)
    record(root, "slide_images", "s1", gene="KRT5")
    shutil.rmtree(root.folder("cell_masks", "s3"))
    last = build_store(root)
    assert (last.read, last.kept) == (1, first.read - 3), "one changed, two are gone"
    assert last.rows["cells"] == first.rows["cells"] - 2
    assert ask(last.path, "select gene from slides where slide = 's1'") == [("KRT5",)]


def test_a_store_replaced_under_a_session_that_wrote_to_it_can_be_opened(root):
    store = build_store(root)
    write = "c.execute('create table notes (a int)'); print(flush=True); input()"
    code = f"import duckdb; c = duckdb.connect({str(store.path)!r}); {write}"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as session:
        session.stdout.readline()
        build_store(root)
        session.kill()
    with duckdb.connect(str(store.path)) as connection:
        connection.execute("create table notes (a int)")
    again = build_store(root)
    assert (again.read, again.kept) == (0, store.read)


def test_a_damaged_store_is_built_again_from_the_files(root, caplog):
    first = build_store(root)
    content = bytearray(first.path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    first.path.write_bytes(content)
    again = build_store(root)
    assert (again.read, again.rows) == (first.read, first.rows)
    assert "all files are read again" in caplog.text


def test_a_root_with_signs_of_patterns_in_its_name_is_read(root, tmp_path_factory):
    moved = tmp_path_factory.mktemp("moved") / "it's [a]*root"
    shutil.copytree(root.path, moved)
    assert build_store(DataRoot(moved)).rows == build_store(root).rows


def test_only_whole_partitions_count(root):
    before = build_store(root).rows
    for asset, file in (("hpa_images", "images"), ("cell_masks", "cells"), ("epidermis_layers", "layers")):
        table(root, asset, "half", file, slide=["half"])  # no record yet, or no more
        put_record(root, asset, "s9")
        table(root, asset, "s9", file, slide=["half"])
        root.folder(asset, "s9").rename(root.folder(asset) / ".s9.part")
    assert build_store(root).rows == before


def test_an_antibody_on_two_genes_pages_counts_for_both(root):
    for gene, ensembl_id in (("KRT14", "E14"), ("KRT16", "E16")):
        record(root, "hpa_images", ensembl_id)
        shown = {"slide": ["s1", "s1"], "gene": gene, "ensembl_id": ensembl_id}  # of two tissues, say
        table(root, "hpa_images", ensembl_id, "images", **shown)
    record(root, "slide_images", "s1", origin="hpa", gene="KRT14", ensembl_id="E14")
    record(root, "slide_images", "s3", origin="folder")
    store = build_store(root).path
    found = ask(store, "select gene, ensembl_id, slides, cells, mean_dab_od from dab_profile_by_gene where layer = 1")
    assert sorted(found, key=str) == [
        ("KRT14", "E14", 1, 1, 0.4),
        ("KRT14", None, 1, 1, 0.4),  # s2, which no page shows any more
        ("KRT16", "E16", 1, 1, 0.4),
        (None, None, 1, 1, 0.4),
    ]


def test_what_a_killed_build_left_is_swept(root):
    folder = root.store.parent
    for name, age_s in ((".store-old", 7200), (".store-now", 0)):
        (folder / name).mkdir(parents=True)
        (folder / name / "dermatome.duckdb").write_bytes(b"half")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    build_store(root)
    assert sorted(path.name for path in folder.iterdir()) == [".store-now", "dermatome.duckdb"]


def test_every_table_view_and_column_says_in_the_store_what_it_means(tmp_path):
    store = build_store(DataRoot(tmp_path / "empty"))
    own = "schema_name = 'main' and not internal"
    for what in ("columns", "views"):
        assert ask(store.path, f"from duckdb_{what}() where {own} and comment is null") == []
    named = {name for (name,) in ask(store.path, f"select distinct table_name from duckdb_columns() where {own}")}
    assert named == set(tomllib.loads((files("dermatome.warehouse") / "dictionary.toml").read_text())["tables"])


def test_profiles_of_genes_are_over_patients_with_a_row_for_each_antibody(tmp_path):
    root = DataRoot(tmp_path)
    slides = {  # slide → antibody, patient, DAB of the basal layer and zone
        "a": ("HPA1", "P1", 0.2), "b": ("HPA1", "P1", 0.4), "c": ("HPA1", "P2", 0.5), "d": ("CAB2", "P1", 0.9),
        "e": ("HPA1", None, 0.1),
    }  # fmt: skip
    shown = [
        {"slide": slide, "gene": "KRT5", "ensembl_id": "E5", "antibody": antibody, "patient_id": patient}
        | {"staining": "high", "intensity": "strong", "quantity": ">75%", "tissue": "Skin 1"}
        for slide, (antibody, patient, _) in slides.items()
    ]
    record(root, "hpa_images", "E5")
    write_table(root.folder("hpa_images", "E5") / "images.parquet", pa.Table.from_pylist(shown))
    for slide, (*_, dab) in slides.items():
        record(root, "slide_images", slide, origin="hpa", gene="KRT5", ensembl_id="E5")
        record(root, "epidermis_layers", slide)
        stain = {"slide": [slide], "mean_dab_od": [dab], "h_score": [100 * dab]}
        table(root, "epidermis_layers", slide, "layers", **stain, layer=[1], cells=[10])
        table(root, "epidermis_layers", slide, "zones", **stain, zone=["basal"])
    store = build_store(root).path
    by_patient = "select antibody, patient, slides, mean_dab_od, cells from dab_by_patient where layer = 1"
    assert ask(store, by_patient) == [
        ("CAB2", "P1", 1, 0.9, 10),
        ("HPA1", "P1", 2, pytest.approx(0.3), 20),
        ("HPA1", "P2", 1, 0.5, 10),
        ("HPA1", None, 1, 0.1, 10),
    ]
    columns = "antibody, antibodies, patients, slides, slides_of_unknown_patient, mean_dab_od, sd_dab_od, sd_h_score"
    for part in ("layer = 1", "zone = 'basal'"):
        assert ask(store, f"select {columns} from dab_profile_by_gene where {part}") == [
            ("CAB2", 2, 1, 1, 0, 0.9, None, None),
            ("HPA1", 2, 2, 4, 1, pytest.approx(0.3), pytest.approx(0.2), pytest.approx(20)),  # of 0.3, 0.5 and 0.1
        ]
    assert ask(store, "select distinct staining, intensity, quantity, tissue from dab_profile_by_gene") == [
        ("high", "strong", ">75%", "Skin 1")
    ]
