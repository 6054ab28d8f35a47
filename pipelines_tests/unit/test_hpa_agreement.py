"""HPA's annotation against measurements: scores worked out by hand, thresholds, and a synthetic HPA of known levels."""

import math

import numpy as np
import pandas as pd
import pytest

from dermatome.metrics.ordinal import calibration_error, level_counts, quadratic_kappa, rank_correlation
from dermatome.skin.agreement.compare import TARGETS, compare, pool
from dermatome.skin.agreement.settings import AgreementSettings
from dermatome.skin.agreement.stage import make_agreement
from dermatome.skin.agreement.thresholds import Thresholds, learn_thresholds
from dermatome.storage.layout import DataRoot
from pipelines_tests.experiments.agreement import repeats
from pipelines_tests.hpa_numbers import drawn_hpa, with_flips
from pipelines_tests.records import put_record

ONCE = np.ones((1, 4))
QUICK = AgreementSettings(resamples=200)


def test_scores_are_those_worked_out_by_hand():
    """Levels 0 0 1 2 read as 0 1 1 2: the squared distances sum up to 1, and by chance to (12 + 2 + 6) / 4 = 5."""
    truth, read = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])
    counts = level_counts(truth, read, 3, ONCE)
    assert counts[0].tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert quadratic_kappa(counts)[0] == pytest.approx(1 - 1 / 5)
    # Bin 0.9 to 1 has confidence 0.95 and is right; bin 0.5 to 0.6 has 0.55 and is right half the time.
    error = calibration_error(np.array([0.95, 0.55, 0.95, 0.55]), np.array([True, False, True, True]), ONCE)
    assert error[0] == pytest.approx((2 * 0.05 + 2 * 0.05) / 4)
    assert math.isnan(quadratic_kappa(level_counts(truth * 0, read * 0, 3, ONCE))[0])


def test_a_weight_counts_a_sample_as_often_as_repeating_it():
    from scipy.stats import spearmanr

    draw = np.random.default_rng(0)
    first, second = draw.integers(0, 5, 40) / 1.0, draw.integers(0, 4, 40) / 1.0
    weights = draw.multinomial(40, np.full(40, 1 / 40), 3)
    found = rank_correlation(first, second, weights.astype(float))
    for row, value in zip(weights, found, strict=True):
        again = spearmanr(np.repeat(first, row), np.repeat(second, row)).statistic
        assert value == pytest.approx(again)
    assert math.isnan(rank_correlation(first * 0, second, weights.astype(float))[0])


def test_thresholds_of_drawn_levels_are_found_and_probabilities_add_up():
    draw = np.random.default_rng(1)
    measure = draw.uniform(0, 1, 4000)
    drawn = Thresholds(np.array([0.2, 0.5, 0.7]), 25.0)
    level = (draw.uniform(size=(4000, 1)) > drawn.probabilities(measure).cumsum(axis=1)[:, :-1]).sum(axis=1)
    learnt = learn_thresholds(measure, level, 4)
    np.testing.assert_allclose(learnt.cuts, drawn.cuts, atol=0.01)
    assert learnt.slope == pytest.approx(25, rel=0.15)  # 2 % of labels are taken to be wrong, which none is
    np.testing.assert_allclose(learnt.probabilities(measure).sum(axis=1), 1)
    assert learnt.levels(np.array([0.1, 0.3, 0.6, 0.9])).tolist() == [0, 1, 2, 3]
    # The tails keep their digits: the further away, the less likely.
    far = learnt.probabilities(np.array([2.0, 3.0, 4.0]))[:, 0]
    assert (np.diff(far) < 0).all()
    assert (far > 0).all()


def test_levels_that_are_apart_or_lack_examples_give_finite_thresholds():
    apart = learn_thresholds(np.array([0.1, 0.1, 0.9, 0.9]), np.array([0, 0, 3, 3]), 4)
    assert np.isfinite([*apart.cuts, apart.slope]).all()
    assert apart.levels(np.array([0.1, 0.9])).tolist() == [0, 3]
    assert learn_thresholds(np.array([0.1, 0.2]), np.array([1, 1]), 4) is None
    assert learn_thresholds(np.array([0.2, 0.2]), np.array([0, 1]), 4) is None


@pytest.mark.parametrize(
    ("annotation", "level"),
    [
        ("cytoplasmic/membranous", 0),
        ("cytoplasmic/membranous,nuclear", 1),
        ("nuclear", 2),
        ("none", None),
        (None, None),
    ],
)
def test_a_location_is_ordered_by_how_nuclear_it_is(annotation, level):
    found = TARGETS[2].level(annotation)
    assert math.isnan(found) if level is None else found == level


def test_cores_are_pooled_by_antibody_and_tissue_over_patients():
    """Patient p has 0.1 and 0.3, patient q 0.6: mean 0.4. A slide on the pages of two genes counts once."""
    base = drawn_hpa(0, 1).iloc[:1].assign(tissue="Skin 1", intensity="weak")
    rows = [
        base.assign(slide=slide, patient=patient, mean_dab_od=dab, gene=gene)
        for slide, patient, dab, gene in [
            ("a", "p", 0.1, "G0"), ("a", "p", 0.1, "G1"), ("b", "p", 0.3, "G0"), ("c", "q", 0.6, "G0"),
        ]
    ]  # fmt: skip
    other = base.assign(slide="d", patient=None, tissue="Skin 2", mean_dab_od=0.2, intensity=None, release="19")
    first, second = pool(pd.concat([*rows, other])).to_dict("records")
    assert first["mean_dab_od"] == pytest.approx(0.4)
    assert (first["slides"], first["patients"], first["intensity"], first["release"]) == (3, 2, 1.0, "23")
    assert (second["tissue"], second["patients"], second["release"]) == ("Skin 2", 1, "19")
    assert math.isnan(second["intensity"])


def test_no_level_of_an_antibody_depends_on_its_own_annotation():
    """One antibody of wild measures is annotated otherwise: how it is read stays the same."""
    cores = drawn_hpa(2, 40)
    mine = cores["antibody"] == "HPA000000"
    cores.loc[mine, "mean_dab_od"] = 0.2
    read = [
        compare(cores.assign(intensity=cores["intensity"].mask(mine, level)), QUICK)
        .rows.query("target == 'intensity' and antibody == 'HPA000000'")[["read", "confidence"]]
        .to_numpy()
        .tolist()
        for level in TARGETS[0].levels
    ]
    assert all(one == read[0] for one in read)


def test_few_antibodies_have_scores_without_an_interval_and_one_has_none():
    few = compare(drawn_hpa(3, 10), QUICK).scores
    assert few["kappa"].notna().any()
    assert few[[name for name in few.columns if name.endswith(("_low", "_high"))]].isna().all(axis=None)
    one = compare(drawn_hpa(3, 1), QUICK)
    assert one.scores.empty
    assert one.rows["read"].isna().all()


def test_scores_are_given_by_release_and_reliability_and_an_unknown_antibody_is_counted():
    cores = drawn_hpa(4, 60)
    cores.loc[cores["antibody"] < "HPA000030", "release"] = "19"
    cores.loc[cores["antibody"] == "HPA000059", "antibody"] = None
    found = compare(cores, QUICK)
    groups = found.scores.query("target == 'quantity'").set_index(["grouped_by", "group_name"])["antibodies"]
    assert groups["all", "all"] == groups["release"].sum() == groups["reliability"].sum() == 59
    assert set(groups["release"].index) == {"19", "23"}
    assert (found.antibodies, found.unknown) == (59, 3)
    shares = found.confusion.query("target == 'quantity'")
    assert shares["share"].sum() == pytest.approx(1)
    assert (shares["share_low"] <= shares["share"]).all()
    assert (shares["share"] <= shares["share_high"]).all()


def test_a_synthetic_hpa_gives_its_kappa_and_its_flipped_labels():
    """A small edition of the experiment whose numbers stand in docs/results.md."""
    found = repeats(range(4), pool(drawn_hpa(10**6, 1000, noise_od=0.03)), 100, noise_od=0.03)
    assert found["kappa"].mean() == pytest.approx(found["true_kappa"].mean(), abs=0.02)
    assert found["covered"].sum() >= 3
    assert found["precision"].mean() >= 0.8


def test_the_report_lists_flipped_labels_first_and_runs_no_script(tmp_path, monkeypatch):
    cores, flipped = with_flips(drawn_hpa(5, 60, noise_od=0.02), 5)
    cores = cores.assign(gene=cores["gene"].replace("G7", "<script>alert(1)</script>"))
    monkeypatch.setattr("dermatome.skin.agreement.stage.all_genes", lambda *given: cores)
    root = DataRoot(tmp_path / "root")
    put_record(root, "gene_profiles", "E0", values={"synthetic": True})
    result = make_agreement(root, tmp_path, QUICK)
    assert {path.name for path in tmp_path.iterdir()} >= {
        "agreement.parquet", "scores.parquet", "confusion.parquet", "thresholds.parquet", "agreement.html",
        "figure.png", "figure.svg",
    }  # fmt: skip
    assert (
        result.values["intensity_kappa_low"] < result.values["intensity_kappa"] < result.values["intensity_kappa_high"]
    )
    rows = pd.read_parquet(tmp_path / "agreement.parquet").query("target == 'intensity'").nsmallest(3, "probability")
    assert set(zip(rows["antibody"], rows["tissue"], strict=True)) <= flipped
    text = (tmp_path / "agreement.html").read_text()
    first = rows.iloc[0]
    assert f"../../gene_profiles/{first['ensembl_id']}/card.html" in text
    assert all(anchor in text for anchor in ("57 / 52 / 68 %", "0.63", "77 / 76 / 86 %"))
    assert "<script" not in text
    assert result.values["synthetic"]
    assert "trained on synthetic images only" in text


def test_nothing_to_compare_is_said(tmp_path):
    result = make_agreement(DataRoot(tmp_path), tmp_path, QUICK)
    assert result.outcome == "nothing_to_compare"
    assert "too few to learn thresholds" in (tmp_path / "agreement.html").read_text()
