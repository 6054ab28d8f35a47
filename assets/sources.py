"""External sources: HPA, the folders that users fill, the published cell network. Dagster never materializes these."""

import dagster as dg


def _source(name: str, group: str, kind: str, description: str) -> dg.AssetSpec:
    return dg.AssetSpec(name, group_name=group, kinds={kind}, description=description)


HPA = _source(
    "human_protein_atlas",
    "skin_images",
    "xml",
    "The Human Protein Atlas: a page for each gene, with images of its antibodies in normal skin. "
    "[Site](https://www.proteinatlas.org), [licence](https://www.proteinatlas.org/about/licence)",
)
INBOX = _source(
    "inbox",
    "skin_images",
    "file",
    "Folder of the data root for your own skin slides. The sensor `image_folder` registers them.",
)
ANNOTATIONS = _source(
    "annotations",
    "skin_training",
    "file",
    "Folder of the data root with a folder for each annotated slide: `he.*`, `mask.*`, `rois.json`. The sensor "
    "`annotation_folder` registers them.",
)
CELL_ANNOTATIONS = _source(
    "cell_annotations",
    "skin_training",
    "file",
    "Folder of the data root with a folder for each set of images and their annotated cells.",
)
CYTO2 = _source(
    "cyto2",
    "skin_training",
    "pytorch",
    "Cellpose's published network, which is downloaded once. If the settings name it, cells are found with it until "
    "there is a `cell_champion`, and networks can be fine-tuned from it. "
    "[Cellpose](https://github.com/MouseLand/cellpose)",
)
NUCLEI_INBOX = _source(
    "nuclei_inbox",
    "nuclei_images",
    "file",
    "Folder of the data root for H&E slides. The sensor `nuclei_slide_folder` registers them.",
)
NUCLEI_ANNOTATIONS = _source(
    "nuclei_annotations",
    "nuclei_training",
    "file",
    "Folder of the data root with a folder for each patient: images with annotated nuclei as "
    "[MoNuSAC](https://monusac-2020.grand-challenge.org) and MoNuSeg give them, or with label images. The sensor "
    "`nuclei_case_folder` registers them.",
)
SOURCES = [HPA, INBOX, ANNOTATIONS, CELL_ANNOTATIONS, CYTO2, NUCLEI_INBOX, NUCLEI_ANNOTATIONS]
FOLDERS = {source.key.to_user_string() for source in SOURCES if source.kinds == {"file"}}
"""Names of the sources that are folders of the data root."""
EXTERNAL = {source.key.to_user_string() for source in SOURCES}
EXTERNAL_VERSION = "INITIAL"
"""Dagster's data version of an asset that it does not materialize."""
