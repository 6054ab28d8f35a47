"""The demo's cohort: five synthetic genes with known staining patterns, their slides, and annotated slides."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dermatome.classes import StainingPattern
from dermatome.geometry import Box
from dermatome.labels.palette import Palette, classes_to_rgb
from dermatome.reports.html import encoded
from dermatome.skin.tiles.rois import Roi, rois_json
from dermatome.slides.source import tiff_address
from dermatome.storage.files import write_atomic
from dermatome.synthetic.hpa_pages import ToyImage, gene_page_xml
from dermatome.synthetic.skin import ToySlide, ToyStain, toy_slide

SLIDE_PX = 768
MPP = 0.5
SLIDES_A_GENE = 3
MISLABELLED = "MISLABELLED"
ANNOTATED = tuple(f"annotated-{number}" for number in range(1, 13))
RELEASE = "23"
_ANNOTATION = {
    StainingPattern.BASAL: ("low", "weak", "<25%", "cytoplasmic/membranous"),
    StainingPattern.SUPRABASAL: ("medium", "moderate", ">75%", "cytoplasmic/membranous"),
    StainingPattern.WHOLE: ("medium", "moderate", ">75%", "cytoplasmic/membranous"),
    StainingPattern.NEGATIVE: ("not detected", "negative", "none", "none"),
}


@dataclass(frozen=True)
class DemoSlide:
    """One slide of the cohort.

    Attributes:
        image: the image as described on the page of its gene.
        pattern: ground truth of the staining pattern.
        seed: seed of the synthetic slide.
        broken: whether the JPEG is truncated on purpose.
    """

    image: ToyImage
    pattern: StainingPattern
    seed: int
    broken: bool = False

    @property
    def slide(self) -> str:
        """Slide id, as built by `hpa_images`."""
        return f"{self.image.folder}-{self.image.stem}"

    def draw(self) -> ToySlide:
        """Draws the slide with its ground truth, in about a second."""
        return _draw(self.seed, self.pattern)


@dataclass(frozen=True)
class DemoGene:
    """One synthetic gene and its slides."""

    gene: str
    ensembl_id: str
    pattern: StainingPattern
    slides: tuple[DemoSlide, ...]


def demo_genes() -> tuple[DemoGene, ...]:
    """A gene for each pattern, and one whose label contradicts its two images.

    The third gene has a broken slide besides its three good ones. The last one stains all of the epidermis, and its
    page says that it stains nothing.
    """
    genes = []
    drawn = [(pattern.name, pattern, pattern) for pattern in StainingPattern]
    drawn.append((MISLABELLED, StainingPattern.WHOLE, StainingPattern.NEGATIVE))
    for number, (name, pattern, label) in enumerate(drawn, start=1):
        count = 2 if name == MISLABELLED else SLIDES_A_GENE + (pattern == StainingPattern.WHOLE)
        slides = tuple(
            DemoSlide(
                ToyImage(
                    folder=str(900 + number),
                    stem=f"{number}_A_{1 + index // 2}_{1 + index % 2}",
                    antibody=f"HPA90000{number}",
                    patient_id=str(2000 + index),
                    age=str(40 + 7 * index),
                    sex="Female" if index % 2 else "Male",
                    cell_types=(("Keratinocytes", *_ANNOTATION[label]),),
                ),
                pattern,
                seed=100 * number + index,
                broken=index >= SLIDES_A_GENE,
            )
            for index in range(count)
        )
        genes.append(DemoGene(f"TOY{name}", f"ENSG9999900000{number}", pattern, slides))
    return tuple(genes)


def pages(base_url: str) -> dict[str, bytes]:
    """The page of each gene by Ensembl id, in HPA's format, with images at ``base_url``."""
    return {
        gene.ensembl_id: gene_page_xml(
            gene.gene, gene.ensembl_id, base_url, [slide.image for slide in gene.slides], release=RELEASE
        )
        for gene in demo_genes()
    }


def images() -> dict[str, bytes]:
    """The JPEG and the TIFF of each slide by its path on the server; the broken one is half a JPEG without a TIFF."""
    drawn = {}
    for gene in demo_genes():
        for slide in gene.slides:
            toy, data = slide.draw(), slide.draw().jpeg()
            drawn[slide.image.path] = data[: len(data) // 2] if slide.broken else data
            if not slide.broken:
                drawn[tiff_address(slide.image.path)] = encoded(toy.slide.whole(), "tiff", compression="tiff_lzw")
    return drawn


def write_annotations(folder: Path) -> list[str]:
    """Writes annotated synthetic slides as a person would provide them: H&E, IHC, mask, ROIs, palette.

    Returns:
        Ids of the slides.
    """
    palette = Palette.shipped("dermatome")
    for number, name in enumerate(ANNOTATED):
        pattern = tuple(StainingPattern)[number % len(StainingPattern)]
        seed = 9000 + number
        he = toy_slide(seed, pattern, size_px=SLIDE_PX, mpp=MPP, stain=ToyStain.HE)
        ihc = toy_slide(seed, pattern, size_px=SLIDE_PX, mpp=MPP, stain=ToyStain.IHC)
        images = {"he": he.slide.whole(), "ihc": ihc.slide.whole(), "mask": classes_to_rgb(he.mask, palette)}
        for kind, pixels in images.items():
            write_atomic(folder / name / f"{kind}.png", encoded(pixels, "png"))
        palette.save(folder / name / "palette.json")
        write_atomic(folder / name / "rois.json", rois_json([Roi("all", Box(0, 0, SLIDE_PX, SLIDE_PX), 2)]))
    return list(ANNOTATED)


@cache
def _draw(seed: int, pattern: StainingPattern) -> ToySlide:
    return toy_slide(seed, pattern, size_px=SLIDE_PX, mpp=MPP)
