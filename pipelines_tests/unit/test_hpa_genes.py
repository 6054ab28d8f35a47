"""Gene lists: columns by name, each gene once, and mistakes that say where they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermatome.errors import BadPage, MissingInput
from dermatome.hpa.genes import GeneRef, read_gene_list

K5, K14 = "ENSG00000186081", "ENSG00000186847"


def written(tmp_path, text, name="genes.tsv", encoding="utf-8"):
    (tmp_path / name).write_bytes(text.encode(encoding))
    return tmp_path / name


def test_the_real_search_download(realdata):
    genes = read_gene_list(realdata / "hpa_tsv" / "protein_class_Transcription.tsv")
    assert len(genes) == 1485
    assert genes[0] == GeneRef("ENSG00000101126", "ADNP")


def test_the_real_table_of_a_release_names_each_gene_once(realdata):
    path = realdata / "hpa_tsv" / "normal_tissue_v22_skin.tsv"
    genes = read_gene_list(path)
    assert genes[0] == GeneRef("ENSG00000000003", "TSPAN6")
    assert [g.ensembl_id for g in genes] == list(dict.fromkeys(line[:15] for line in path.read_text().splitlines()[1:]))


@pytest.mark.parametrize(
    "text",
    [
        f"Gene\tEnsembl\nKRT5\t{K5}\nKRT14\t{K14}\n",
        f'"Ensembl"\t"Gene description"\tGene\n{K5}\t"keratin\t5"\tKRT5\n{K14}\t""\tKRT14\n',
        f"Gene\tGene name\tTissue\n{K5}\tKRT5\tskin 1\n{K5}\tKRT5\tskin 2\n{K14}\tKRT14\tskin 1\n",
        f"symbol,ensembl_id\r\nKRT5,{K5}.12\r\nKRT14,{K14}\r\n",
        f"\ufeffGene\tEnsembl\n\nKRT5\t{K5}\n\nKRT14\t{K14}",
        f"Gene stable ID version\tGene name\n{K5}.17\tKRT5\n{K14}.6\tKRT14\n",
        f"Gene name;Gene stable ID\r\nKRT5;{K5}\r\nKRT14;{K14}\r\n",
        f"sep=;\r\nGene name;Gene stable ID\r\nKRT5;{K5}\r\nKRT14;{K14}\r\n",
        f"Gene name,Gene stable ID\nKRT5,{K5.lower()}\nX,NA\nY,#N/A\nKRT14,{K14}\n",
        f"HGNC ID\tApproved symbol\tEnsembl ID(supplied by Ensembl)\n1\tKRT5\t{K5}\n2\tKRT14\t{K14}\n",
        f"KRT5,{K5}\nKRT14,{K14}\n",  # no header
        f"{K5}\tKRT5\n{K14}\tKRT14\n",
        f"# genes of the basal layer\n{K5} KRT5\n{K14}\tKRT14  # and its partner\n",
    ],
)
def test_tables_and_lines(tmp_path, text):
    assert read_gene_list(written(tmp_path, text)) == [GeneRef(K5, "KRT5"), GeneRef(K14, "KRT14")]


@pytest.mark.parametrize(
    "text",
    [
        f"{K5}\n{K14}\n{K5}\n",
        f"{K5},{K14}",
        f"{K5};{K14}",
        f"Ensembl\n{K5}\n{K14}\n",
        f"Gene\n{K5}\n{K14}",
        f'"{K5}"\n"{K14}"\n',
    ],
)
def test_ids_alone(tmp_path, text):
    assert read_gene_list(written(tmp_path, text, "g.txt")) == [GeneRef(K5), GeneRef(K14)]


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_excel_s_encodings(tmp_path, encoding):
    path = written(tmp_path, f"Gene;Ensembl;Gewebe\r\nKRT5;{K5};für Häute\r\n", encoding=encoding)
    assert read_gene_list(path) == [GeneRef(K5, "KRT5")]


def test_rows_without_an_id_are_skipped_and_counted(tmp_path, caplog):
    path = written(tmp_path, f"Gene\tEnsembl\nKRT5\t{K5}\nNONE\t\nOTHER\t \nKRT14\t{K14}\n")
    assert [gene.ensembl_id for gene in read_gene_list(path)] == [K5, K14]
    assert "genes.tsv: 2 rows without an Ensembl id are skipped" in caplog.text


def test_a_list_and_a_path_as_text(tmp_path):
    assert read_gene_list([K14, K5, K14]) == [GeneRef(K14), GeneRef(K5)]
    assert read_gene_list(str(written(tmp_path, K5))) == [GeneRef(K5)]


def test_several_ids_of_one_symbol(tmp_path):
    assert read_gene_list(written(tmp_path, f'Gene\tEnsembl\nKRT\t"{K5}, {K14}"\n')) == [
        GeneRef(K5, "KRT"),
        GeneRef(K14, "KRT"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Gene\tUniprot\nKRT5\tP13647\n", "no column of Ensembl ids.*'Gene', 'Uniprot'"),
        ("Gene,Tissue\n", "no column of Ensembl ids"),
        (f"Gene\tEnsembl\nKRT5\t{K5}\nKRT14\tENSG0001\n", "line 3, column 'Ensembl': 'ENSG0001'"),
        (f"Gene\tEnsembl\nKRT5\t{K5}\nKRT14\n", "line 3.*'Ensembl' is missing"),
        ("Gene\tEnsembl\nKRT5\t\n", "has no gene"),
        (f'Gene\tEnsembl\n"KRT5\t{K5}\nKRT14\t{K14}\n', "line 2: a quotation mark"),
        (f"{K5}\nKRT14\n", "line 2: 'KRT14'"), (f"{K5}\nENSG٠٠٠٠٠١٨٦٨٤٧\n", "line 2"), ("", "has no gene"),
        ("Gene\tEnsembl\n", "has no gene"), ("# nothing\n\n", "has no gene"),
        (f"{K5[:-1]}\n{K14}\n", f"line 1: '{K5[:-1]}'"), (f"{K5}0\tKRT5\n{K14}\tKRT14\n", "no column of Ensembl ids"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_place(tmp_path, text, message):
    with pytest.raises(BadPage, match=message) as caught:
        read_gene_list(written(tmp_path, text))
    assert str(caught.value).startswith("genes.tsv")


def test_files_that_are_no_lists(tmp_path):
    with pytest.raises(MissingInput):
        read_gene_list(tmp_path / "none.tsv")
    with pytest.raises(MissingInput):
        read_gene_list(tmp_path)
    with pytest.raises(BadPage, match="is not text"):
        read_gene_list(written(tmp_path, f"Gene\tEnsembl\nKRT5\t{K5}\n", encoding="utf-16-le"))
    (tmp_path / "g.xlsx").write_bytes(b"PK\3\4")
    with pytest.raises(BadPage, match="workbook"):
        read_gene_list(tmp_path / "g.xlsx")
    with pytest.raises(BadPage, match="has no gene"):
        read_gene_list([])


@given(st.lists(st.integers(0, 99_999_999_999), min_size=1, max_size=40))
def test_each_gene_once_in_the_order_given(numbers):
    ids = [f"ENSG{number:011d}" for number in numbers]
    assert [gene.ensembl_id for gene in read_gene_list(ids)] == list(dict.fromkeys(ids))
