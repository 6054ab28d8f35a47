"""Patches of nuclei: from toys in each of the forms that annotations come in, and from real ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from dermatome.classes import IGNORED, NUCLEUS_LABELS, NucleusClass
from dermatome.cli.app import app
from dermatome.errors import BadAnnotation, BadImage, BadSetting, MissingInput
from dermatome.geometry import Size
from dermatome.imaging.stain_normalisation import fit_slide
from dermatome.nuclei.maps.task import NucleusTask, NucleusTraining
from dermatome.nuclei.patches.annotated import DRAWN_COLOURS, annotated_images, case_folders, read_annotated
from dermatome.nuclei.patches.cut import make_patches, split_patches
from dermatome.nuclei.patches.files import load_patches, patches_sha256, write_manifest
from dermatome.nuclei.patches.settings import PatchSettings
from dermatome.slides.slide import MppSource, Slide
from dermatome.synthetic.nuclei import ToyNuclei, toy_nuclei
from pipelines_tests.nuclei_case import save_toy_case

SMALL = PatchSettings(size_px=64, stride_px=32)


@pytest.fixture(scope="module")
def toy() -> ToyNuclei:
    return toy_nuclei(5, Size(130, 130))


@pytest.fixture(scope="module")
def case(toy: ToyNuclei, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A case as MoNuSAC gives it: RGBA TIFF and Aperio XML."""
    folder = tmp_path_factory.mktemp("monusac") / "TCGA-A1-B2C3-01Z-00-DX1"
    save_toy_case(folder, [toy_nuclei(5, Size(130, 130), name="TCGA-A1-B2C3-01Z-00-DX1_1")])
    return folder


def label_images(folder: Path, toy: ToyNuclei, *, instances: bool, classes: bool, drawn: str = "uint8") -> Path:
    files = {"images": toy.slide.whole()}
    if instances:
        files["instances"] = toy.maps.instances.astype(np.uint16)
    if classes:
        colours = np.array(list(DRAWN_COLOURS.values()), np.uint8)
        files["classes"] = colours[toy.maps.semantic] if drawn == "colours" else toy.maps.semantic.astype(drawn)
    for name, array in files.items():
        (folder / name).mkdir(parents=True)
        Image.fromarray(array).save(folder / name / "a.png")
    return folder


@pytest.mark.parametrize("drawn", ["uint8", "uint16", "colours"])
def test_label_images_give_the_maps_too(tmp_path: Path, toy: ToyNuclei, drawn: str) -> None:
    folder = label_images(tmp_path / "p1", toy, instances=True, classes=True, drawn=drawn)
    (image,) = annotated_images(folder)
    read = read_annotated(image, 0.3)
    np.testing.assert_array_equal(read.maps.instances, toy.maps.instances)
    np.testing.assert_array_equal(read.maps.semantic, toy.maps.semantic)
    assert (image.patient, read.mpp, read.mpp_source) == ("p1", 0.3, MppSource.DECLARED)


def test_what_is_not_known_is_ignored(tmp_path: Path, toy: ToyNuclei) -> None:
    (only,) = annotated_images(label_images(tmp_path / "p1", toy, instances=True, classes=False))
    unclassed = read_annotated(only, 0.25).maps
    assert (unclassed.semantic[unclassed.instances > 0] == IGNORED).all()
    assert not unclassed.ignored.any()
    (drawn,) = annotated_images(label_images(tmp_path / "p2", toy, instances=False, classes=True))
    (tmp_path / "p2" / "nuclei").mkdir()
    white = (toy.maps.instances > 0) * np.uint8(255)
    white[:9] = 255
    Image.fromarray(white).save(tmp_path / "p2" / "nuclei" / "a.png")
    (drawn,) = annotated_images(tmp_path / "p2")
    maps = read_annotated(drawn, 0.25).maps
    assert maps.ignored[:9][toy.maps.instances[:9] == 0].all()
    assert 0 < maps.instances.max() <= toy.maps.instances.max()  # those of one class that touch are one


def test_masks_of_0_and_1_are_read_as_what_they_are_or_refused(tmp_path: Path, toy: ToyNuclei) -> None:
    case = label_images(tmp_path / "p", toy, instances=True, classes=True)
    (case / "nuclei").mkdir()
    mask = (toy.maps.instances > 0).astype(np.uint8)
    mask[:9] = 1
    Image.fromarray(mask).save(case / "nuclei" / "a.png")
    (image,) = annotated_images(case)
    assert read_annotated(image, 0.25).maps.ignored[:9][toy.maps.instances[:9] == 0].all()
    Image.fromarray(mask * np.uint8(100)).save(case / "nuclei" / "a.png")
    with pytest.raises(BadAnnotation, match="no white, its highest value is 100"):
        read_annotated(image, 0.25)
    (case / "nuclei" / "a.png").unlink()

    Image.fromarray(mask).save(case / "classes" / "a.png")
    made = make_patches(case, tmp_path / "out", SMALL)
    assert "every nucleus counts as epithelial" in made.message
    Image.fromarray(mask.astype(bool)).save(case / "classes" / "a.png")
    with pytest.raises(BadAnnotation, match="states no class: put it into nuclei/"):
        read_annotated(image, 0.25)


def test_how_much_of_an_annotation_is_left_out_stays_with_the_patches(tmp_path: Path, toy: ToyNuclei) -> None:
    case = tmp_path / "case"
    case.mkdir()
    Image.fromarray(toy.slide.whole()).save(case / "a.png")
    ring = [[10, 10], [60, 10], [60, 60], [10, 60], [10, 10]]

    def feature(geometry: object, name: str = "Lymphocyte") -> dict[str, object]:
        return {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": name}}}

    square, outside = ({"type": "Polygon", "coordinates": [[[x + by, y] for x, y in ring]]} for by in (0, 9000))
    point = {"type": "Point", "coordinates": [5, 5]}
    features = [
        feature(square),
        feature(outside),
        feature(point),
        feature(point),
        feature(None),
        feature(square, "No*"),
    ]
    (case / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    text = "2 × Point, 1 × class No*, 1 × no geometry, 1 × without a pixel of its own"
    assert make_patches(case, tmp_path / "out", SMALL).values["left_out"] == text
    assert {patch.left_out for patch in load_patches(tmp_path / "out")} == {text}


def test_patches_lie_on_their_grid_and_read_back(case: Path, toy: ToyNuclei, tmp_path: Path) -> None:
    made = make_patches(case, tmp_path, SMALL)
    patches = load_patches(tmp_path)
    numbered = read_annotated(annotated_images(case)[0], 0.25).maps.instances
    assert made.values["patches"] == len(patches) > 4
    assert sum(made.values[f"{label}_share_of_nuclei"] for label in NUCLEUS_LABELS[1:]) == pytest.approx(1)
    assert 0 < (tmp_path / "preview.webp").stat().st_size <= 8_000
    assert {p.top_px for p in patches} == {0, 32, 64, 66}
    assert {p.left_px for p in patches} == {0, 32, 64, 66}
    for patch in patches:
        here = np.s_[patch.top_px : patch.top_px + 64, patch.left_px : patch.left_px + 64]
        rgb, labels = patch.read()
        np.testing.assert_array_equal(rgb, toy.slide.whole()[here])
        np.testing.assert_array_equal(labels[..., 0], toy.maps.semantic[here])
        np.testing.assert_array_equal(labels[..., 1], toy.maps.ternary[here])
        assert patch.semantic_px == tuple(np.bincount(labels[..., 0].ravel(), minlength=5))
        instances = patch.instances()
        np.testing.assert_array_equal(instances, numbered[here])
        assert np.unique(instances).size == patch.nuclei + 1
    assert (patches[0].case, patches[0].mpp) == ("TCGA-A1-B2C3", 0.25)


def test_small_images_are_mirrored_and_ignored_beyond_their_edges(case: Path, toy: ToyNuclei, tmp_path: Path) -> None:
    make_patches(case, tmp_path, PatchSettings(size_px=160, stride_px=80))
    (patch,) = load_patches(tmp_path)
    rgb, labels = patch.read()
    assert rgb.shape == (160, 160, 3)
    np.testing.assert_array_equal(rgb[130:160, :130], toy.slide.whole()[:99:-1])
    assert (labels[130:] == IGNORED).all()
    assert (labels[:, 130:] == IGNORED).all()
    assert (patch.height_px, patch.width_px) == (130, 130)
    assert patch.ignored_px == 160 * 160 - 130 * 130


def test_patches_with_little_in_them_are_left_out(case: Path, tmp_path: Path) -> None:
    made = make_patches(case, tmp_path, SMALL.changed(least_foreground=1.0))
    assert (made.outcome, made.values["patches"]) == ("no_foreground", 0)
    with pytest.raises(MissingInput, match="no patches"):
        load_patches(tmp_path)


def test_the_same_case_gives_the_same_patches(case: Path, tmp_path: Path) -> None:
    versions = [make_patches(case, tmp_path / str(n), SMALL).data_version for n in range(2)]
    assert versions[0] == versions[1]
    one, other = ((tmp_path / str(n) / "patches.parquet").read_bytes() for n in range(2))
    assert one == other
    with pytest.raises(BadAnnotation, match="both have the patch"):
        load_patches(tmp_path / "0", tmp_path / "1")


def test_patches_of_one_stain_are_cut_from_an_image_that_was_given_it_and_say_so(tmp_path: Path) -> None:
    toy = toy_nuclei(5, Size(130, 130), name="p_1")
    vectors = np.array([[0.66, 0.65, 0.37], [0.34, 0.79, 0.51]])
    pixels = np.rint(255 * 10 ** -((toy.densities + 0.05) @ vectors)).clip(0, 255).astype(np.uint8)
    save_toy_case(tmp_path / "in", [replace(toy, slide=replace(toy.slide, pixels=pixels))])
    plain = make_patches(tmp_path / "in", tmp_path / "plain", SMALL)
    made = make_patches(tmp_path / "in", tmp_path / "out", SMALL.changed(normalise_stain=True))
    assert (plain.values["stain"], made.values["stain"]) == ("as it is", "fitted")
    assert plain.data_version != made.data_version
    wanted = fit_slide(Slide("p_1", pixels, 0.25, MppSource.FILE, "")).normalise(pixels)
    patch = load_patches(tmp_path / "out")[0]
    np.testing.assert_array_equal(patch.read()[0], wanted[patch.box.slices])
    assert patch.normalised
    both = [tmp_path / "out", tmp_path / "plain"]
    with pytest.raises(BadSetting, match=r"\d+ of \d+ patches are of images whose stain was normalised"):
        NucleusTask.choose(both[:1], both[1:], NucleusTraining())


def test_a_manifest_without_all_columns_is_refused(case: Path, tmp_path: Path) -> None:
    make_patches(case, tmp_path, SMALL)
    table = pq.read_table(tmp_path / "patches.parquet")
    pq.write_table(table.drop_columns(["stain"]), tmp_path / "patches.parquet")
    with pytest.raises(BadAnnotation, match="is not a manifest of patches"):
        load_patches(tmp_path)


def test_patients_are_split_whole(case: Path, tmp_path: Path) -> None:
    make_patches(case, tmp_path, SMALL)
    own = load_patches(tmp_path)
    rows = [replace(row, case=f"p{n}", name=f"p{n}_{row.name}") for n in range(5) for row in own]
    sided, how = split_patches(rows, 0.2, seed=1)
    held = {row.case for row in sided if row.side == "validation"}
    assert len(held) == 1
    assert {row.case for row in sided if row.side == "train"} == {f"p{n}" for n in range(5)} - held
    assert f"{len(own)} of {5 * len(own)} patches held out, whole patients" in how
    assert split_patches(list(reversed(rows)), 0.2, seed=1)[0][-1].side == sided[0].side
    assert {row.side for row in split_patches(rows, 0, seed=1)[0]} == {"train"}
    with pytest.raises(BadSetting, match="one patient"):
        split_patches(own, 0.2, seed=1)
    for seed in range(5):
        child, said = split_patches(rows, 0.4, seed, learnt=["p0", "p2", "p4", "elsewhere"])
        assert {row.case for row in child if row.side == "validation"} < {"p1", "p3"}
        assert "none that the weights before had learnt" in said
    with pytest.raises(BadSetting, match="patches are on one side of the split"):
        split_patches(rows, 0.2, 1, learnt=[f"p{n}" for n in range(5)])
    write_manifest(tmp_path, sided)
    assert {patch.side for patch in load_patches(tmp_path)} == {"train", "validation"}
    assert patches_sha256(sided) == patches_sha256(rows)


def test_what_does_not_fit_is_said(case: Path, tmp_path: Path, toy: ToyNuclei) -> None:
    with pytest.raises(MissingInput, match="no annotated image"):
        annotated_images(tmp_path)
    folder = label_images(tmp_path / "p1", toy, instances=True, classes=True)
    Image.fromarray(toy.maps.semantic[:50]).save(folder / "classes" / "a.png")
    (image,) = annotated_images(folder)
    with pytest.raises(BadAnnotation, match="same size"):
        read_annotated(image, 0.25)
    Image.fromarray(toy.maps.semantic + np.uint8(9)).save(folder / "classes" / "a.png")
    with pytest.raises(BadAnnotation, match="the class 13"):
        read_annotated(image, 0.25)
    (folder / "instances" / "a.png").write_bytes((folder / "instances" / "a.png").read_bytes()[:99])
    with pytest.raises(BadAnnotation, match="damaged"):
        read_annotated(replace(image, classes=None), 0.25)
    Image.fromarray(toy.slide.whole()).save(folder / "images" / "a.tif")
    with pytest.raises(BadImage, match="keep one of them"):
        annotated_images(folder)
    with pytest.raises(BadSetting, match="stride"):
        PatchSettings(stride_px=300)
    assert case_folders(case.parent) == case_folders(case) == [case]


def test_real_annotations(realdata: Path) -> None:
    (folder,) = case_folders(realdata / "monusac")
    images = annotated_images(folder)
    assert len({image.patient for image in images}) == 9
    image = next(i for i in images if i.name == "TCGA-2Z-A9JG-01Z-00-DX1_1")
    maps = read_annotated(image, 0.25).maps
    assert set(np.unique(maps.semantic)) - {IGNORED} <= set(NucleusClass)
    assert maps.instances.max() >= 3
    (outlined, *_) = annotated_images(realdata / "monuseg")
    assert (outlined.patient, outlined.kind) == ("TCGA-21-5784", "outlines")


def test_the_command_cuts_all_patients_and_goes_on_after_a_bad_one(tmp_path: Path) -> None:
    for number in (1, 2):
        toy = toy_nuclei(number, Size(96, 96), name=f"TCGA-AA-000{number}-01Z-00-DX1_1")
        save_toy_case(tmp_path / "in" / f"case-{number}", [toy])
    (tmp_path / "in" / "empty").mkdir()
    folders = [str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    given = ["nuclei", "patches", *folders, "--size-px", "64", "--stride-px", "32"]
    done = CliRunner().invoke(app, [*given, "--validation-share", "0.5"])
    assert done.exit_code == 1
    assert "empty has no annotated image" in done.stderr
    assert "1 of 3 cases" in done.stderr
    sides = {patch.case: patch.side for patch in load_patches(tmp_path / "out")}
    assert sorted(sides) == ["TCGA-AA-0001", "TCGA-AA-0002"]
    assert sorted(sides.values()) == ["train", "validation"]
