"""HPA gene pages of every release, and what untrusted ones may try."""

import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from dermatome.errors import BadPage, BadSetting, MissingInput
from dermatome.hpa.pages import check_tissue, parse_page
from dermatome.hpa.records import IMAGE_RECORD_SCHEMA, merge_records, read_records, slide_id, write_records
from dermatome.hpa.settings import licence_of
from dermatome.synthetic.hpa_pages import ToyImage, gene_page_xml

URL = "https://images.proteinatlas.org"
ONE = ToyImage("373", "1_A_1_2")


def page(*images, release="23", **more):
    return gene_page_xml("KRT5", "ENSG00000186081", URL, images, release=release, **more)


# Images counted with awk, not by this parser: those below <antibody>, in a tissueExpression of assayType "tissue", in a
# <data> whose tissue reads "skin 1", "skin 2", "Skin 1" or "Skin 2". Reliability is each gene's own and not the
# antibody's. The annotation of the epidermis is read off the page by hand, for one image.
REAL = {
    "AP000812.5_v20_with_imageUrlTif.xml": ({"HPA039949": 6}, [], None, None),
    "ENSG00000000003_TSPAN6_v19.xml": (
        {"HPA004109": 6}, ["T245", "TM4SF6", "TSPAN-6"], "approved",
        ("HPA004109", "2396", "Skin 1", "high", "strong", ">75%"),
    ),
    "ENSG00000000457_SCYL3_v20.xml": (
        {"HPA005624": 4}, ["PACE-1", "PACE1"], None, ("HPA005624", "1876", "Skin 2", "medium", "moderate", ">75%"),
    ),
    "ENSG00000085978_ATG16L1_v20.xml": (
        {"HPA063900": 5}, ["APG16L", "ATG16A", "ATG16L", "FLJ10035", "WDR30"], "supported",
        ("HPA063900", "3282", "Skin 1", "medium", "moderate", "25%-75%"),
    ),
    "ENSG00000134057_v18.xml": (
        {"CAB000115": 6, "CAB003804": 4, "HPA061448": 6}, ["CCNB"], "enhanced",
        ("CAB000115", "1692", "skin 1", "not detected", "weak", "<25%"),
    ),
}  # fmt: skip
LOCATIONS = {"cytoplasmic/membranous", "cytoplasmic/membranous,nuclear", "nuclear", "none"}


@pytest.mark.parametrize("name", REAL)
def test_real_pages_give_what_was_counted_and_read_by_hand(realdata, name):
    counted, synonyms, reliability, epidermis = REAL[name]
    found = parse_page(realdata / "hpa_xml" / name)
    rows = found.records.to_pylist()
    assert found.outcome == "images"
    assert Counter(row["antibody"] for row in rows) == counted
    assert {tuple(row["synonyms"]) for row in rows} == {tuple(synonyms)}
    # The same addresses, found by another way of reading.
    tree = etree.parse(realdata / "hpa_xml" / name)
    urls = tree.xpath(
        "//antibody/tissueExpression[@assayType='tissue']/data[tissue[starts-with(translate(., 'S', 's'), 'skin')]]"
        "//imageUrl/text()"
    )
    assert [row["image_url"] for row in rows] == urls
    assert len({row["slide"] for row in rows}) == len(rows)
    if reliability:
        assert {row["reliability"] for row in rows} == {reliability}
    if epidermis:
        names = ("antibody", "patient_id", "tissue", "staining", "intensity", "quantity")
        assert epidermis in [tuple(row[key] for key in names) for row in rows]
        assert {row["location"] for row in rows} <= LOCATIONS
        assert all(row["antibody"] and row["patient_id"] and row["staining"] for row in rows)


def test_a_real_page_of_release_18_row_by_row(realdata):
    rows = parse_page(realdata / "hpa_xml" / "ENSG00000134057_v18.xml").records.to_pylist()
    first = rows[0]
    assert (first["slide"], first["gene"], first["ensembl_id"]) == ("115-2043_B_8_1", "CCNB1", "ENSG00000134057")
    assert (first["tissue"], first["organ"], first["antibody"]) == ("skin 1", None, "CAB000115")
    assert (first["sex"], first["age"], first["patient_id"], first["release"]) == ("Female", 90, "1692", "18")
    assert first["snomed"] == [
        {"code": "M-00100", "description": "Normal tissue, NOS"},
        {"code": "T-01000", "description": "Skin"},
    ]
    assert [cell["cell_type"] for cell in first["cell_types"]] == [
        "fibroblasts", "keratinocytes", "Langerhans", "melanocytes",
    ]  # fmt: skip
    assert tuple(first["cell_types"][3].values()) == (
        "melanocytes", "medium", "Moderate", "75%-25%", "cytoplasmic/membranous",
    )  # fmt: skip
    # The summary calls both tissues only "skin": skin 1 and skin 2 still get their own.
    assert [cell["level"] for cell in first["gene_cell_types"]] == ["not detected", "medium", "low", "low"]
    second = next(row for row in rows if row["tissue"] == "skin 2")
    assert second["gene_cell_types"] == [{"cell_type": "epidermal cells", "level": "medium"}]
    assert second["gene_expression"] == "medium"
    alone = parse_page(realdata / "hpa_xml" / "ENSG00000134057_v18.xml", tissue="Skin 2").records.to_pylist()
    assert alone == [row for row in rows if row["tissue"] == "skin 2"]
    assert (first["reliability"], first["verification"]) == ("enhanced", "reliability")


def test_a_real_page_with_tiff_addresses(realdata):
    rows = parse_page(realdata / "hpa_xml" / "AP000812.5_v20_with_imageUrlTif.xml").records.to_pylist()
    assert rows[0]["image_url_tif"] == "http://images.proteinatlas.org/39949/84584_B_9_1.tif"
    assert rows[0]["organ"] == "Skin"
    assert rows[0]["slide"] == "39949-84584_B_9_1"


def test_other_tissues_and_organs_can_be_asked_for(realdata):
    path = realdata / "hpa_xml" / "ENSG00000000003_TSPAN6_v19.xml"
    assert set(parse_page(path, tissue="skin 2").records["tissue"].to_pylist()) == {"Skin 2"}
    assert set(parse_page(path, tissue="liver").records["tissue"].to_pylist()) == {"Liver"}
    assert len(set(parse_page(path, tissue="Brain").records["tissue"].to_pylist())) > 1
    unknown = parse_page(path, tissue="Foreskin")
    assert unknown.outcome == "no_tissue"
    with pytest.raises(BadSetting, match="'Foreskin' is not a tissue or organ .*Liver.*Skin 1, Skin 2"):
        check_tissue(unknown, "Foreskin")


@pytest.mark.parametrize("release", [str(number) for number in range(12, 26)])
def test_every_release_gives_the_same_rows(release):
    images = (ONE, ToyImage("373", "1_A_1_3"), ToyImage("373", "1_B_5_8", tissue="Skin 2"))
    found = parse_page(page(*images, release=release, reliability="enhanced"))
    rows = found.records.to_pylist()
    assert found.records.schema == IMAGE_RECORD_SCHEMA
    assert [row["slide"] for row in rows] == ["373-1_A_1_2", "373-1_A_1_3", "373-1_B_5_8"]
    assert {row["technology"] for row in rows} == {"IHC"}
    assert {row["reliability"] for row in rows} == {"enhanced"}
    assert [row["tissue"].lower() for row in rows] == ["skin 1", "skin 1", "skin 2"]
    assert {row["gene_expression"] for row in rows} == {"medium"}
    assert (found.release, found.gene) == (release, "KRT5")
    assert {row["licence"] for row in rows} == {licence_of(release)}


def test_rna_tumours_and_other_tissues_are_not_skin():
    bare = parse_page(page(ONE, decoys=False)).records.drop(["page_sha256"])
    assert b"Melanoma" in page(ONE)
    assert b"RNAExpression" in page(ONE)
    assert parse_page(page(ONE)).records.drop(["page_sha256"]) == bare


@pytest.mark.parametrize(
    ("image", "rows"),
    [
        *((ToyImage("3", "1_A", tissue=name, organ="Other"), 0) for name in ("Foreskin", "Skin cancer", "Subskin 1")),
        (ToyImage("3", "1_A", tissue="Skinny", organ="Other"), 0), (ToyImage("3", "1_A", tissue="Sole of foot"), 1),
    ],
)  # fmt: skip
def test_a_tissue_of_the_organ_is_meant_and_none_whose_name_only_contains_the_word(image, rows):
    assert parse_page(page(image, decoys=False)).records.num_rows == rows


@pytest.mark.parametrize(
    ("tissue", "known"), [("Skni", 0), ("Melanoma", 0), ("Lung", 1), ("stomach 2", 1), ("Skin 1", 1)]
)
def test_a_tissue_that_hpa_does_not_have_is_refused_with_the_names_of_the_page(tissue, known):
    if known:
        check_tissue(parse_page(page(), tissue=tissue), tissue)
        return
    with pytest.raises(BadSetting, match=r"one of Liver, Skin 1\.$"):
        check_tissue(parse_page(page(ONE), tissue=tissue), tissue)


def test_a_page_without_the_tissue_is_an_outcome_with_zero_rows(tmp_path):
    found = parse_page(page())
    assert (found.outcome, found.records.num_rows) == ("no_tissue", 0)
    assert "KRT5 (ENSG00000186081)" in found.message
    assert read_records(write_records(found.records, tmp_path / "k.parquet")).schema == IMAGE_RECORD_SCHEMA


def test_levels_without_images_are_another_outcome():
    found = parse_page(page(blank=[ONE]))
    assert (found.outcome, found.records.num_rows) == ("no_images", 0)
    assert found.antibodies_without_images == (ONE.antibody,)


def test_a_patients_own_levels_are_read():
    text = page(ONE).replace(b"<patientId>1816</patientId>", b"<patientId>1816</patientId><quantity>Rare</quantity>", 1)
    row = parse_page(text).records.to_pylist()[0]
    assert (row["quantity"], row["staining"]) == ("<25%", None)


def test_the_root_may_be_the_entry_and_blank_lines_may_come_first():
    entry = etree.fromstring(page(ONE)).find("entry")
    assert entry is not None
    text = b"\n\n  " + etree.tostring(entry)
    assert parse_page(text).records.num_rows == 1
    assert parse_page(b"\n" * 200_000 + page(ONE)).records.num_rows == 1


def test_the_same_image_twice_is_one_row_and_two_images_of_one_id_are_refused():
    assert parse_page(page(ONE, ONE)).records.num_rows == 1
    twice = page(ONE, ToyImage("373", "1_A_1_3")).replace(b"images/373/1_A_1_3", b"other/373/1_A_1_2")
    both = page(ONE, ToyImage("373", "1_A_1_3")).replace(b"images/373/1_A_1_3", b"images/373/1_A_1_2")
    address = b"://" + both.split(b"<imageUrl>")[1].split(b"</imageUrl>")[0].split(b"://")[1]
    https, http = (scheme + address for scheme in (b"https", b"http"))
    start, end = both.replace(http, https).rsplit(https, 1)
    (row,) = parse_page(start + http + end).records.to_pylist()
    assert row["image_url"] == https.decode()
    with pytest.raises(BadPage, match="two images the slide id 373-1_A_1_2"):
        parse_page(twice)


xml_text = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12)
stems = st.text("abcXYZ0123456789_", min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            ToyImage,
            folder=stems.map(lambda s: "f" + s),
            stem=stems.map(lambda s: "s" + s),
            antibody=st.sampled_from(["HPA1", "CAB2"]),
            tissue=st.sampled_from(["Skin 1", "Skin 2", "Skin", "Liver"]),
            organ=st.just("Organ"),
            sex=xml_text,
            age=st.integers(0, 120).map(str) | st.just("N/A"),
            patient_id=xml_text,
            snomed=st.lists(st.tuples(xml_text, xml_text), max_size=3).map(tuple),
            tif=st.booleans(),
        ),
        max_size=8,
        unique_by=lambda image: image.path,
    ),
    st.sampled_from(["12", "18", "19", "25"]),
)
def test_whatever_a_page_says_is_read_back(images, release):
    rows = {row["slide"]: row for row in parse_page(page(*images, release=release)).records.to_pylist()}
    wanted = {f"{i.folder}-{i.stem}": i for i in images if i.tissue != "Liver"}
    assert rows.keys() == wanted.keys()
    for slide, image in wanted.items():
        row = rows[slide]
        assert (row["antibody"], row["sex"]) == (image.antibody, image.sex)
        assert row["age"] == (None if image.age == "N/A" else int(image.age))
        assert row["patient_id"] == image.patient_id
        assert [(s["code"], s["description"]) for s in row["snomed"]] == list(image.snomed)
        assert row["image_url_tif"] == (
            f"{URL}/images/{image.path.rsplit('/images/')[-1].removesuffix('.jpg')}.tif" if image.tif else None
        )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"), (b"   \n ", "is empty"), (b"\x89PNG\r\n", "is not XML"), (b"Not found", "is not XML"),
        (b"<!DOCTYPE html><html><body><p>Not found<br></body></html>", "web page"),
        (b"<html><head/><body>Not found</body></html>", "without an HPA gene entry"),
        (b"<a><b/></a>", "without an HPA gene entry"), (b"<rss><entry version='1'/></rss>", "is not an HPA page"),
        (b"<proteinAtlas></proteinAtlas>", "without an HPA gene entry"),
        (b"<entry version='20'><name>KRT5</name></entry>", "has no Ensembl gene id"),
        (b"<entry><identifier id='../../etc'/></entry>", "has no Ensembl gene id"),
        (b"<proteinAtlas><entry/><entry/></proteinAtlas>", "several genes"), (page(ONE)[:-200], "cut short"),
        (page(ONE).replace(b"</sex>", b"</sax>", 1), "not complete XML"),
    ],
)  # fmt: skip
def test_pages_that_cannot_be_read_say_so_in_one_sentence(tmp_path, data, message):
    (tmp_path / "odd.xml").write_bytes(data)
    with pytest.raises(BadPage, match=message) as caught:
        parse_page(tmp_path / "odd.xml")
    assert "odd.xml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_page_that_is_not_there():
    with pytest.raises(MissingInput, match="no page"):
        parse_page(Path("nowhere.xml"))


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE proteinAtlas [<!ENTITY x SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE proteinAtlas SYSTEM "http://127.0.0.1:9/evil.dtd">',
        '<!DOCTYPE proteinAtlas [<!ENTITY % p SYSTEM "http://127.0.0.1:9/e"> %p;]>',
        "<!DOCTYPE proteinAtlas>",
        "<!DOCTYPE proteinAtlas [<!ENTITY a0 'ha'>"
        + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 30))
        + "<!ENTITY x '&a29;'>]>",
    ],
)
@pytest.mark.parametrize("place", ["<name>&x;</name>", '<name a="&x;">KRT5</name>', "<name>KRT5</name>"])
def test_document_types_and_entities_are_refused(doctype, place):
    if "ENTITY x" not in doctype:
        place = "<name>KRT5</name>"
    text = page(ONE).decode().replace("<proteinAtlas ", doctype + "<proteinAtlas ", 1)
    with pytest.raises(BadPage):
        parse_page(text.replace("<name>KRT5</name>", place).encode())


def test_a_page_over_the_limit_is_refused():
    with pytest.raises(BadPage, match="larger than a gene page"):
        parse_page(page(ONE), max_bytes=1000)


@pytest.mark.parametrize(
    ("url", "slide"),
    [
        ("http://v18.proteinatlas.org/images/115/2043_B_8_1.jpg", "115-2043_B_8_1"),
        ("https://images.proteinatlas.org/373/1_A_1_2.jpg?v=3#x", "373-1_A_1_2"),
        ("https://images.proteinatlas.org/373/1_A_1_2.tar.gz", "373-1_A_1_2.tar"),
    ],
)
def test_slide_ids(url, slide):
    assert slide_id(url) == slide


@pytest.mark.parametrize(
    "url",
    [
        "https://images.proteinatlas.org/1.jpg", "https://images.proteinatlas.org/../../1.jpg",
        "https://images.proteinatlas.org/373/..",
        "https://images.proteinatlas.org/373/%2e%2e%2f%2e%2e%2fetc%2fpasswd.jpg",
        "https://images.proteinatlas.org/373/a b.jpg", "https://images.proteinatlas.org/373/a%00.jpg",
        "https://images.proteinatlas.org/-rf/a.jpg", "https://images.proteinatlas.org/373/" + "a" * 300 + ".jpg",
        "https://[broken/373/1.jpg", "",
    ],
)  # fmt: skip
def test_addresses_that_would_leave_the_data_root_are_refused(url):
    with pytest.raises(BadPage, match="slide id"):
        slide_id(url)


def test_one_such_address_fails_its_page():
    with pytest.raises(BadPage, match="slide id"):
        parse_page(page(ONE, ToyImage("..", "..")))


def test_records_come_back_from_parquet_as_lists(tmp_path):
    found = parse_page(page(ONE))
    table = read_records(write_records(found.records, tmp_path / "r.parquet"))
    assert table == found.records
    assert isinstance(table.to_pylist()[0]["snomed"], list)
    assert merge_records([]).schema == IMAGE_RECORD_SCHEMA
    assert merge_records([table, table]).num_rows == 2
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(BadPage, match=r"x\.parquet"):
        read_records(tmp_path / "x.parquet")
    with pytest.raises(MissingInput):
        read_records(tmp_path / "none.parquet")
    pa.parquet.write_table(pa.table({"a": [1]}), tmp_path / "y.parquet")
    with pytest.raises(BadPage, match=r"y\.parquet"):
        read_records(tmp_path / "y.parquet")


SAMPLE = b"<RNASample age='34' expRNA='0' sampleId='225' sex='Female' unitRNA='pTPM'/>"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(
    ("what", "times"),
    [
        (b"<data><tissue organ='Skin'>Skin 1</tissue>" + SAMPLE + b"</data>", 200_000),
        (b"<a/>", 500_000),  # a tree of these would take thirty times the page's own size
        (b"<p><data/><a b='' c='' d='' e=''/>text</p>", 100_000),
    ],
    ids=["as HPA does", "tiny tags", "attributes"],
)
def test_memory_stays_flat_however_long_the_page(tmp_path, what, times):
    (tmp_path / "short.xml").write_bytes(page(ONE))
    (tmp_path / "long.xml").write_bytes(page(ONE).replace(b"</rnaExpression>", what * times + b"</rnaExpression>"))
    script = """
        import sys
        from pathlib import Path
        from dermatome.hpa.pages import check_tissue, parse_page
        def peak_kib():  # not ru_maxrss, which a child process begins with its parent's
            return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
        parse_page(Path(sys.argv[1]))
        before = peak_kib()
        assert parse_page(Path(sys.argv[2])).records.num_rows == 1
        print((peak_kib() - before) >> 10)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), tmp_path / "short.xml", tmp_path / "long.xml"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10, f"memory grew by {done.stdout} MB"


@pytest.mark.parametrize(
    "more",
    [
        b"<image><imageUrl>http://h/1/2.jpg</imageUrl></image>" * 60_000,
        b"<quantity>" + b"x" * 5_000_000 + b"</quantity>",
    ],
    ids=["images", "text"],
)
def test_a_page_that_says_more_of_the_tissue_than_any_gene_has_is_refused(more):
    text = page(ONE).replace(b"<patient>", more + b"<patient>", 1)
    assert text != page(ONE)
    with pytest.raises(BadPage, match="has more about Skin than a gene page can"):
        parse_page(text)


def test_a_tissue_named_last_is_still_found_and_what_was_read_before_is_let_go():
    tree = etree.fromstring(page(ONE, ToyImage("373", "1_A_1_3", tissue="Liver", organ="Liver")))
    for data in tree.iter("data"):
        tissue = data.find("tissue")
        assert tissue is not None
        data.append(tissue)
    assert parse_page(etree.tostring(tree)).records["slide"].to_pylist() == ["373-1_A_1_2"]
