"""The atlas: order of genes, markers, and its page."""

import numpy as np
import pandas as pd
import pytest

from dermatome.skin.atlas.build import build_atlas, marker_sentence
from dermatome.skin.atlas.figures import atlas_figure
from dermatome.skin.atlas.settings import AtlasSettings
from dermatome.skin.atlas.stage import atlas_html, make_atlas
from dermatome.storage.layout import DataRoot

BASAL, UPPER, GRANULAR = ("basal", (0.6, 0.1, 0.1)), ("suprabasal", (0.1, 0.6, 0.5)), ("suprabasal", (0.1, 0.3, 0.7))
ZONES = ("basal", "lower_suprabasal", "upper_suprabasal")


def tables(*genes):
    """Profiles and antibodies of (gene, (pattern, DAB of the zones), …), a pattern for each antibody."""
    rows, antibodies = [], []
    for gene, *patterns in genes:
        for number, (pattern, zones) in enumerate(patterns):
            same = {"gene": gene, "ensembl_id": f"E-{gene}", "antibody": f"HPA{number}"}
            rows += [same | {"part": "zone", "zone": z, "mean_dab_od": od} for z, od in zip(ZONES, zones, strict=True)]
            rows.append(same | {"part": "epidermis", "mean_dab_od": np.mean(zones)})
            depth = np.interp(np.arange(20), [0, 8, 19], zones)
            rows += [
                same | {"part": "relative_depth", "relative_from": n / 20, "mean_dab_od": od}
                for n, od in enumerate(depth)
            ]
            counts = {"patients": 1, "slides_of_unknown_patient": 0, "pattern_share": np.nan}
            antibodies.append(
                same
                | counts
                | {"pattern": pattern, "staining": None, "intensity": None, "quantity": None, "synonyms": f"OLD-{gene}"}
            )
    return pd.DataFrame(rows), pd.DataFrame(antibodies)


@pytest.mark.parametrize(
    ("gene", "patterns", "passed"),
    [
        ("KRT5", [BASAL], True),
        ("KRT5", [BASAL, UPPER], False),  # half is not most
        ("KRT14", [BASAL, BASAL, UPPER], True),
        ("KRT1", [UPPER], True),
        ("KRT10", [GRANULAR], True),  # granular is suprabasal
        ("FLG", [GRANULAR], True),
        ("FLG", [UPPER], False),
        ("IVL", [BASAL], False),
        ("LORICRIN", [GRANULAR], True),
    ],
)
def test_a_marker_reads_as_most_of_its_antibodies_do(gene, patterns, passed):
    (found,) = build_atlas(*tables((gene, *patterns), ("OTHER", BASAL))).markers
    assert (found.gene, found.passed) == (gene, passed)


def test_the_check_counts_markers_and_names_those_that_read_otherwise():
    atlas = build_atlas(*tables(("KRT5", BASAL), ("FLG", UPPER)))
    assert marker_sentence(atlas.markers) == "1 of 2 markers read as they should: not FLG (suprabasal, not granular)."
    assert "None of the markers" in marker_sentence(())


@pytest.mark.parametrize("limit", [10, 2])
def test_genes_alike_lie_together_clustered_or_sorted(limit):
    genes = [("A", BASAL), ("B", GRANULAR), ("C", BASAL), ("D", GRANULAR)]
    atlas = build_atlas(*tables(*genes), AtlasSettings(max_clustered=limit))
    assert (atlas.linkage is None) == (limit == 2)
    assert {frozenset(atlas.genes["gene"][:2]), frozenset(atlas.genes["gene"][2:])} == {
        frozenset("AC"), frozenset("BD")
    }  # fmt: skip
    first = atlas.genes["gene"][0]
    assert atlas.depth[0, 0] == pytest.approx(0.6 if first in "AC" else 0.1)


def test_the_page_escapes_what_pages_say_and_allows_one_script():
    profiles, antibodies = tables(("<script>x</script>", BASAL), ("KRT1", UPPER))
    atlas = build_atlas(profiles, antibodies)
    text = atlas_html(atlas, profiles, atlas_figure(atlas)[1]).decode()
    assert text.count("<script>") == 1
    assert "script-src 'sha256-" in text
    assert "&lt;script&gt;x" in text
    assert "n = 1, no interval" in text
    assert text.count("linear-gradient(") == 2
    assert "OLD-KRT1" in text


def test_a_data_root_without_profiles_gives_an_empty_atlas(tmp_path):
    made = make_atlas(DataRoot(tmp_path), tmp_path / "out", AtlasSettings())
    assert (made.outcome, made.checks[0].passed) == ("no_genes", True)
    assert (tmp_path / "out" / "atlas.html").is_file()
