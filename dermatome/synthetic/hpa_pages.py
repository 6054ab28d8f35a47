"""Synthetic gene pages in the format of the Human Protein Atlas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lxml import etree

CellType = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class ToyImage:
    """One image of a gene page.

    Attributes:
        folder: HPA's folder for the images of the antibody, ``373`` in ``/images/373/1_A_1_2.jpg``.
        stem: file name without suffix.
        antibody: id of the antibody.
        tissue: name of the tissue with HPA's running number; written in the case of the release.
        organ: name of the organ; written from release 19 on.
        sex: ``Male`` or ``Female``.
        age: age in years, as text; HPA also has ``N/A``.
        patient_id: HPA's number of the patient.
        snomed: code and description of each SNOMED parameter.
        cell_types: cell type, staining, intensity, quantity and location of each annotated cell type.
        tif: whether the page also names a TIFF of the image.
    """

    folder: str
    stem: str
    antibody: str = "HPA000001"
    tissue: str = "Skin 1"
    organ: str = "Skin"
    sex: str = "Female"
    age: str = "61"
    patient_id: str = "1816"
    snomed: tuple[tuple[str, str], ...] = (("M-00100", "Normal tissue, NOS"), ("T-01000", "Skin"))
    cell_types: tuple[CellType, ...] = (("Keratinocytes", "medium", "moderate", ">75%", "cytoplasmic/membranous"),)
    tif: bool = False

    @property
    def path(self) -> str:
        """Path of the image on an HPA server."""
        return f"/images/{self.folder}/{self.stem}.jpg"


def gene_page_xml(
    gene: str,
    ensembl_id: str,
    base_url: str,
    images: Sequence[ToyImage] = (),
    *,
    release: str = "23",
    reliability: str = "supported",
    decoys: bool = True,
    blank: Sequence[ToyImage] = (),
    synonyms: Sequence[str] = (),
) -> bytes:
    """Writes a gene page as HPA of the given release does; the same arguments give the same bytes.

    Args:
        gene: gene symbol.
        ensembl_id: Ensembl id.
        base_url: address of the server that image addresses name.
        images: images in the order of the page; those of one antibody and tissue are grouped.
        release: 12 to 25. Up to 15 the technology is ``IH`` and the reliability a ``validation``; up to 18 tissues are
            in lower case, have no attributes, and lose their number in the summary of the gene.
        reliability: reliability of the staining of the gene; antibodies get a different word.
        decoys: adds what real pages contain besides normal skin staining: RNA levels of skin, skin tumours with
            images, and a normal tissue of another organ.
        synonyms: other names of the gene.
        blank: tissues that have levels but no image, as in newer releases; their file names are not used.
    """
    new = float(release) >= 19
    root = etree.Element("proteinAtlas", schemaVersion="2.6")
    entry = etree.SubElement(root, "entry", version=release, url=f"{base_url}/{ensembl_id}")
    _add(entry, "name", gene)
    for name in synonyms:
        _add(entry, "synonym", name)
    etree.SubElement(entry, "identifier", id=ensembl_id, db="Ensembl", version="109.38")
    attributes = {"source": "HPA", "technology": "IH" if float(release) <= 15 else "IHC"}
    everything = [(image, True) for image in images] + [(image, False) for image in blank]
    if decoys:
        everything.append(
            (ToyImage("0", "0_A_1_1", images[0].antibody if images else "HPA000001", "Liver", "Liver"), True)
        )

    summary = etree.SubElement(entry, "tissueExpression", attributes, assayType="tissue")
    _add(summary, "verification", reliability, type="reliability" if float(release) > 15 else "validation")
    for image in {image.tissue: image for image, _ in everything}.values():
        data = _data(summary, image, new=new, numbered=new)
        _add(data, "level", "medium", type="expression")
        for cell in image.cell_types:
            element = etree.SubElement(data, "tissueCell")
            _add(element, "cellType", cell[0])
            _add(element, "level", "medium", type="expression")
    if decoys:
        _rna(entry, new=new)

    for antibody in dict.fromkeys(image.antibody for image, _ in everything):
        element = etree.SubElement(entry, "antibody", id=antibody, releaseVersion=release)
        assay = etree.SubElement(element, "tissueExpression", attributes, assayType="tissue")
        _add(assay, "verification", "approved" if reliability != "approved" else "uncertain", type="validation")
        mine = [(image, shown) for image, shown in everything if image.antibody == antibody]
        for tissue in dict.fromkeys(image.tissue for image, _ in mine):
            group = [(image, shown) for image, shown in mine if image.tissue == tissue]
            data = _data(assay, group[0][0], new=new, numbered=True)
            _cells(data, group[0][0].cell_types)
            for image, shown in group:
                if shown:
                    _patient(data, image, base_url)
        if decoys:
            assay = etree.SubElement(element, "tissueExpression", attributes, assayType="pathology")
            tumour = ToyImage("0", f"0_{antibody}_9", antibody, "Melanoma" if new else "skin cancer")
            data = _data(assay, tumour, new=new, numbered=True)
            _patient(data, tumour, base_url, staining="High")
    _add(root, "copyright", "Toy data of Dermatome in the shape of the Human Protein Atlas")
    written: bytes = etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)
    return written


def _add(parent: Any, tag: str, text: str, **attributes: str) -> None:
    etree.SubElement(parent, tag, attributes).text = text


def _data(parent: Any, image: ToyImage, *, new: bool, numbered: bool) -> Any:
    data = etree.SubElement(parent, "data")
    name = image.tissue if numbered else image.tissue.rstrip("0123456789 ")
    if new:
        _add(data, "tissue", name, organ=image.organ, ontologyTerms="UBERON:0000014")
    else:
        _add(data, "tissue", name.lower())
    return data


def _cells(data: Any, cell_types: Sequence[CellType]) -> None:
    for name, staining, intensity, quantity, location in cell_types:
        element = etree.SubElement(data, "tissueCell")
        _add(element, "cellType", name)
        _add(element, "level", staining, type="staining")
        _add(element, "level", intensity, type="intensity")
        _add(element, "quantity", quantity)
        _add(element, "location", location)


def _patient(data: Any, image: ToyImage, base_url: str, staining: str | None = None) -> None:
    patient = etree.SubElement(data, "patient")
    _add(patient, "sex", image.sex)
    _add(patient, "age", image.age)
    _add(patient, "patientId", image.patient_id)
    if staining:
        _add(patient, "level", staining, type="staining")
    sample = etree.SubElement(patient, "sample")
    snomed = etree.SubElement(sample, "snomedParameters")
    for code, description in image.snomed:
        etree.SubElement(snomed, "snomed", snomedCode=code, tissueDescription=description)
    picture = etree.SubElement(etree.SubElement(sample, "assayImage"), "image", imageType="sampleImage")
    _add(picture, "imageUrl", f"{base_url}{image.path}")
    if image.tif:
        _add(picture, "imageUrlTif", f"{base_url}{image.path.removesuffix('.jpg')}.tif")


def _rna(entry: Any, *, new: bool) -> None:
    rna = etree.SubElement(entry, "rnaExpression", source="HPA", technology="RNAseq", assayType="tissue")
    data = _data(rna, ToyImage("0", "0"), new=new, numbered=True)
    etree.SubElement(data, "level", type="RNAExpression", unitRNA="TPM", expRNA="17.3")
