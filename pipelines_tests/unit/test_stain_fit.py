"""Macenko's fit on mixes of known stains, its fall-backs, and the look that slides are given."""

import numpy as np
import pytest
from torchstain.base.normalizers.macenko import MacenkoNormalizer

from dermatome.geometry import Size
from dermatome.imaging.stain_normalisation import (
    REFERENCE_STRENGTHS,
    REFERENCE_VECTORS,
    StainFit,
    StainOutcome,
    fit_slide,
    fit_stains,
)
from dermatome.slides.slide import MppSource, Slide, read_slide
from dermatome.synthetic.nuclei import toy_nuclei

OTHER = np.array([[0.66, 0.65, 0.37], [0.34, 0.79, 0.51]])
STRENGTHS = np.array([1.3, 0.6])


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def amounts(count):
    """Amounts of both stains whose 99th percentiles are about 1: nuclei, cytoplasm, and much in between."""
    rng = np.random.default_rng(0)
    share = np.concatenate([np.zeros(count // 5), np.ones(count // 5), rng.uniform(0, 1, count - 2 * (count // 5))])
    whole = rng.uniform(0.45, 1.0, count)
    return np.stack([share * whole, (1 - share) * whole], axis=1)


def painted(mixed, vectors, strengths):
    return np.rint(255 * 10 ** -((mixed * strengths) @ unit(vectors))).clip(0, 255).astype(np.uint8)


def between_deg(one, other):
    return np.degrees(np.arccos((unit(np.array(one)) * unit(other)).sum(axis=1).clip(-1, 1)))


def test_known_stains_are_found_again():
    fit = fit_stains(painted(amounts(20_000), OTHER, STRENGTHS))
    assert fit.outcome is StainOutcome.FITTED
    assert (between_deg(fit.vectors, OTHER) < 2).all()
    np.testing.assert_allclose(fit.strengths, STRENGTHS, rtol=0.08)
    assert fit.check().passed


def agrees_with_torchstain(pixels):
    """Ours against a published implementation, on what both take for stained: within 0.1° and 0.2 %."""
    density = -np.log10(np.maximum(pixels, 1) / 255)
    pixels = np.maximum(pixels, 1)[(density.min(axis=1) > 0.07) & (density.mean(axis=1) > 0.16)]
    theirs = MacenkoNormalizer(backend="numpy")
    theirs.fit(pixels[:, None] - 1, Io=255)  # it adds 1 before it takes logarithms
    fit = fit_stains(pixels)
    assert (between_deg(fit.vectors, theirs.HERef.T) < 0.1).all()
    np.testing.assert_allclose(fit.strengths, theirs.maxCRef / np.log(10), rtol=0.002)


def test_the_fit_is_that_of_a_published_implementation():
    agrees_with_torchstain(painted(amounts(20_000), OTHER, STRENGTHS))
    agrees_with_torchstain(painted(toy_nuclei(3, Size(300, 300)).densities + 0.05, OTHER, np.ones(2)).reshape(-1, 3))


def test_the_fit_of_real_slides_is_that_of_a_published_implementation(realdata):
    for path in sorted((realdata / "monuseg").glob("*.tif")):
        agrees_with_torchstain(read_slide(path).whole().reshape(-1, 3))


def test_a_slide_is_given_the_look_of_the_reference():
    mixed = amounts(20_000)
    own = painted(mixed, OTHER, STRENGTHS)
    wanted = painted(mixed, REFERENCE_VECTORS, REFERENCE_STRENGTHS)
    normal = fit_stains(own).normalise(own[None])[0]
    before, after = (np.abs(image.astype(int) - wanted).mean() for image in (own, normal))
    assert after < 6 < before / 2
    white = np.full((2, 3, 3), 255, np.uint8)
    np.testing.assert_array_equal(fit_stains(own).normalise(white), white)


@pytest.mark.parametrize(
    ("pixels", "outcome"),
    [
        (np.full((5000, 3), 250, np.uint8), StainOutcome.LITTLE_TISSUE),
        (np.zeros((0, 3), np.uint8), StainOutcome.LITTLE_TISSUE),
        (painted(amounts(5000)[:, :1] + 0.3, OTHER[:1], STRENGTHS[:1]), StainOutcome.ONE_STAIN),
        # DAB, a brown, instead of eosin
        (painted(amounts(5000), np.array([OTHER[0], [0.27, 0.57, 0.78]]), STRENGTHS), StainOutcome.NOT_HE),
        # eosin's red nuclei on a blue ground that lacks red: the wrong way round
        (painted(amounts(5000), np.array([[0.45, 0.85, 0.30], [0.36, 0.69, 0.63]]), STRENGTHS), StainOutcome.NOT_HE),
    ],
)
def test_where_the_fit_is_off_colours_are_left_and_the_check_says_why(pixels, outcome):
    fit = fit_stains(pixels)
    assert fit.outcome is outcome
    check = fit.check()
    assert not check.passed
    assert check.values["outcome"] == str(outcome)
    assert "left" in check.description
    some = np.random.default_rng(1).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    np.testing.assert_array_equal(fit.normalise(some), some)


@pytest.mark.parametrize("level", [247, 212])
def test_a_slide_is_fitted_once_on_its_tissue_whatever_background_is_around(level):
    # The toy's own eosin is purer than any on real slides.
    tissue = painted(toy_nuclei(3, Size(300, 300)).densities + 0.05, OTHER, np.array([1.0, 1.0]))
    toy = Slide("toy", tissue, 0.25, MppSource.DECLARED, "0" * 64)
    wide = np.full((900, 2100, 3), level, np.uint8)
    wide[200:500, 100:400] = toy.whole()
    surrounded = fit_slide(Slide("wide", wide, toy.mpp, MppSource.DECLARED, "0" * 64))
    alone = fit_slide(toy)
    assert alone.outcome is surrounded.outcome is StainOutcome.FITTED
    assert (between_deg(alone.vectors, np.array(surrounded.vectors)) < 2).all()
    np.testing.assert_allclose(alone.strengths, surrounded.strengths, rtol=0.05)
    assert fit_slide(Slide("bare", wide[:150], 0.25, MppSource.DECLARED, "0" * 64)).outcome is (
        StainOutcome.LITTLE_TISSUE
    )


def test_real_slides_of_different_stain_come_nearer_to_one_another(realdata):
    slides = [read_slide(realdata / "monuseg" / f"TCGA-{name}-01Z-00-DX1.tif") for name in ("21-5784", "21-5786")]
    fits: list[StainFit] = [fit_slide(slide) for slide in slides]
    assert [fit.outcome for fit in fits] == [StainOutcome.FITTED] * 2
    own = [slide.whole()[:400, :400] for slide in slides]
    normal = [fit.normalise(image) for fit, image in zip(fits, own, strict=True)]
    before, after = (np.abs(np.subtract(*(i.mean((0, 1)) for i in pair))).sum() for pair in (own, normal))
    assert after < before
    brown = read_slide(sorted((realdata / "hpa_ihc").glob("*.jpg"))[0])
    assert fit_slide(brown).outcome is StainOutcome.NOT_HE
