"""Vendors' slides through OpenSlide, on a real one and on a pyramid made here, and scales that files state."""

import struct
import time

import numpy as np
import pytest
import tifffile
from PIL import Image

from dermatome.errors import BadImage
from dermatome.geometry import Box, Size
from dermatome.slides.mpp import stated_scale
from dermatome.slides.slide import MppSource, read_slide
from dermatome.slides.vendors import WsiPixels
from pipelines_tests.bad_images import tiff

RGB = np.random.default_rng(0).integers(0, 256, (600, 520, 3)).astype(np.uint8)
IMAGEJ_LATIN = {"description": "ImageJ=1\nunit=Âµm\n".encode(), "resolutionunit": 1}
APERIO = "Aperio Image Library v11.2.1 \n520x600 (128x128) JPEG/RGB Q=90|AppMag = 20|MPP = 0.4990"

SPACING = (
    '<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" PMSVR="IDoubleArray">&quot;{0}&quot; &quot;{0}&quot;</A>'
)
PHILIPS = SPACING.format(0.00025) + SPACING.format(0.0005)


def as_svs(path, description=APERIO):
    """A pyramid of two levels that OpenSlide takes for Aperio's; without loss."""
    with tifffile.TiffWriter(path) as writer:
        for rgb in (RGB, RGB[::2, ::2]):
            writer.write(
                rgb, tile=(128, 128), photometric="rgb", description=description, metadata=None, compression="deflate",
                software=None,
            )  # fmt: skip
    return path


def test_a_slide_is_read_in_parts_at_each_level(tmp_path):
    slide = read_slide(as_svs(tmp_path / "a.svs"), declared_mpp=0.25)
    assert isinstance(slide.pixels, WsiPixels)
    assert (slide.size, slide.mpp, slide.mpp_source) == (Size(600, 520), 0.499, MppSource.FILE)
    assert slide.pixels.sizes == (Size(600, 520), Size(300, 260))
    np.testing.assert_array_equal(slide.pixels[10:300, 100:410], RGB[10:300, 100:410])
    np.testing.assert_array_equal(slide.pixels.read(Box(20, 30, 50, 90), 1), RGB[::2, ::2][20:50, 30:90])
    np.testing.assert_array_equal(slide.region(Box.whole(slide.size), Size(300, 260)), RGB[::2, ::2])
    assert (slide.pixels.level_for(1.9), slide.pixels.level_for(2.0)) == (0, 1)
    slide.pixels.check()


def test_a_scale_is_declared_where_none_is_stated(tmp_path):
    silent = as_svs(tmp_path / "b.svs", APERIO.replace("|MPP = 0.4990", ""))
    assert read_slide(silent, declared_mpp=0.5).conversions == ("read in parts, at 2 levels",)
    with pytest.raises(BadImage, match="states a 20× objective, about 0.5 µm per pixel, and no scale.*--mpp"):
        read_slide(silent, declared_mpp=0.25)
    given = read_slide(silent, declared_mpp=0.25, mpp_given=True)
    assert given.mpp == 0.25
    assert given.conversions[-1] == (
        "the file states a 20× objective, about 0.5 µm per pixel, and no scale; 0.25 was declared"
    )
    assert "0.35 was declared" in read_slide(silent, declared_mpp=0.35).conversions[-1], "less than a factor of 1.5"
    stated = read_slide(as_svs(tmp_path / "a.svs"), declared_mpp=0.25, mpp_given=True)
    assert stated.mpp == 0.499
    assert "the file states 0.499 µm per pixel, used instead of 0.25" in stated.conversions


def test_what_is_no_slide_is_refused(tmp_path):
    whole = as_svs(tmp_path / "a.svs").read_bytes()
    for name, data in (("cut.svs", whole[:3000]), ("text.ndpi", b"no slide"), ("empty.dcm", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadImage, match=name):
            read_slide(tmp_path / name)


def test_damage_inside_is_found_when_it_is_checked_or_touched(tmp_path):
    path = as_svs(tmp_path / "a.svs")
    with tifffile.TiffFile(path) as tiff:
        offsets = [page.dataoffsets[0] for page in tiff.pages]
    data = bytearray(path.read_bytes())
    for offset in offsets:
        data[offset : offset + 50] = bytes(50)
    path.write_bytes(data)
    with pytest.raises(BadImage, match="damaged"):
        WsiPixels(path).check()
    with pytest.raises(BadImage, match="damaged"):
        WsiPixels(path)[0:10, 0:10]


@pytest.mark.parametrize(
    ("how", "mpp"),
    [
        ({"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}, 0.25),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"resolution": (50_800, 50_800), "resolutionunit": "INCH"}, 0.5),
        ({"resolution": (40_000, 40_000), "resolutionunit": "NONE"}, None),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.3, "PhysicalSizeXUnit": "µm"}}, 0.3),
        ({"ome": True, "metadata": {"PhysicalSizeX": 3, "PhysicalSizeXUnit": "mm"}}, None),
        ({"ome": True}, None),
        ({"ome": True, "metadata": {"PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm"}}, 0.5),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.0005, "PhysicalSizeXUnit": "mm"}}, 0.5),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.00005, "PhysicalSizeXUnit": "cm"}}, 0.5),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "um"}}, 0.5),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "pixel"}}, None),
        ({"description": APERIO, "metadata": None}, 0.499),
        ({"description": "Motic V1.0.0 520x600|AppMag = 40|MPP = 0.257290", "metadata": None}, 0.25729),
        ({"description": "Vendor X; mpp_x: 0,25; mpp_y: 0,25", "metadata": None}, 0.25),
        ({"description": "Scanner", "metadata": None, "resolution": (2400, 2400), "resolutionunit": "INCH"}, None),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "Micrometers"}}, 0.25),
        ({"imagej": True, "resolution": (4000, 4000), "metadata": {"unit": "millimetre"}}, 0.25),
        ({"imagej": True, "resolution": (101_600, 101_600), "metadata": {"unit": "inch"}}, 0.25),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.252}}, 0.251),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "um"}}, 0.25),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "micron"}}, 0.25),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": r"\u00B5m"}}, 0.25),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "pixel"}}, None),
        (IMAGEJ_LATIN | {"metadata": None, "resolution": (4, 4)}, 0.25),
        ({"imagej": True, "resolution": (4, 4)}, None),
        ({"description": "AppMag = 14|MPP=.7", "metadata": None}, 0.7),
        ({"description": "AppMag = 14|MPP = 7.0e-1", "metadata": None}, 0.7),
        ({"description": "Pixel size: 0.7 µm".encode(), "metadata": None}, 0.7),
        ({"description": "scanned at 0,7 um/pixel", "metadata": None}, 0.7),
        ({"description": "PixelSizeX = 0.00025 mm", "metadata": None}, 0.25),
        ({"description": "Pixel size: 250 nm", "metadata": None}, 0.25),
        (
            {"description": "<Scan><MPP>0.25</MPP><PixelSizeMicrons>0.25</PixelSizeMicrons></Scan>", "metadata": None},
            0.25,
        ),
        ({"description": '{"pixel_size_um": [0.25, 0.25]}', "metadata": None}, 0.25),
        ({"description": "Resolution (um/pixel): 0.25", "metadata": None}, 0.25),
        ({"description": "mpp\t0.25", "metadata": None}, 0.25),
        ({"description": PHILIPS, "metadata": None}, 0.25),
        ({"description": "ImageJ=1\nunit=µ\n".encode(), "metadata": None, "resolution": (4, 4)}, 0.25),
        ({"ome": True, "metadata": {"PhysicalSizeX": 250_000, "PhysicalSizeXUnit": "pm"}}, 0.25),
        ({"description": "Resolution = 0.7 um; 256x256", "metadata": None}, 0.7),
        ({"description": "250nm/pixel", "metadata": None}, 0.25),
        ({"metadata": None, "resolution": (4000, 4000), "resolutionunit": "MILLIMETER"}, 0.25),
        ({"metadata": None, "resolution": (4, 4), "resolutionunit": "MICROMETER"}, 0.25),
        ({"ome": True, "metadata": {"PhysicalSizeX": 5e-7, "PhysicalSizeXUnit": "m"}}, 0.5),
    ],
)
def test_scales_that_tiffs_state(tmp_path, how, mpp):
    (tmp_path / "a.tif").write_bytes(tiff(RGB[:40, :40], photometric="rgb", **{"ome": False} | how))
    assert stated_scale(tmp_path / "a.tif").mpp == (None if mpp is None else pytest.approx(mpp))
    slide = read_slide(tmp_path / "a.tif", declared_mpp=0.7)
    assert slide.mpp == pytest.approx(mpp or 0.7)
    assert slide.mpp_source is (MppSource.FILE if mpp else MppSource.DECLARED)


@pytest.mark.parametrize("suffix", [".svs", ".tif"])
def test_pixels_that_are_not_square_are_refused(tmp_path, suffix):
    path = as_svs(tmp_path / f"a{suffix}", "Motic V1|MPPX = 0.25|MPPY = 0.5")
    with pytest.raises(BadImage, match=r"pixels of 0\.25 × 0\.5 µm, which are not square"):
        read_slide(path)


def test_a_missing_resolution_unit_is_the_inch(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(RGB[:40, :40]).save(path, tiffinfo={282: 101_600.0, 283: 101_600.0})
    with tifffile.TiffFile(path) as tiff:
        assert "ResolutionUnit" not in tiff.pages[0].tags
    assert stated_scale(path).mpp == pytest.approx(0.25)


def test_a_resolution_unit_of_two_numbers_is_damage(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB[:40, :40], photometric="rgb", metadata=None, resolutionunit="INCH")
    unit = struct.pack("<HHI", 296, 3, 1)
    assert path.read_bytes().count(unit) == 1
    path.write_bytes(path.read_bytes().replace(unit, struct.pack("<HHI", 296, 3, 2)))
    with pytest.raises(BadImage, match=r"a\.tif is damaged or cut short"):
        read_slide(path)


@pytest.mark.parametrize(
    ("suffix", "dpi", "mpp"),
    [
        ("png", (101_600, 101_600), 0.25),
        ("jpg", (50_800, 50_800), 0.5),
        ("png", (72, 72), None),
        ("jpg", (300, 300), None),
        ("jpg", (9600, 9600), None),
        ("png", None, None),
    ],
)
def test_dots_per_inch_of_a_microscope_are_a_scale(tmp_path, suffix, dpi, mpp):
    Image.fromarray(RGB[:40, :40]).save(tmp_path / f"a.{suffix}", **({"dpi": dpi} if dpi else {}))
    slide = read_slide(tmp_path / f"a.{suffix}", declared_mpp=0.7)
    assert slide.mpp == pytest.approx(mpp or 0.7, rel=1e-4)
    assert slide.mpp_source is (MppSource.FILE if mpp else MppSource.DECLARED)
    assert slide.conversions == ()


def test_an_implausible_scale_is_not_used_and_noted(tmp_path):
    Image.fromarray(RGB[:40, :40]).save(tmp_path / "a.tif", dpi=(300, 300))
    slide = read_slide(tmp_path / "a.tif")
    assert slide.mpp_source is MppSource.DECLARED
    assert slide.conversions == ("84.67 × 84.67 µm per pixel, as the file states, is no microscope's scale",)
    Image.fromarray(RGB[:40, :40]).save(tmp_path / "a.tif", dpi=(9600, 9600))
    assert read_slide(tmp_path / "a.tif").conversions == ("9600 dots per inch, as the file states, are a scanner's",)
    tifffile.imwrite(tmp_path / "a.tif", RGB[:40, :40], imagej=True, resolution=(4, 4), metadata={"unit": "furlong"})
    assert "'furlong', as the file states, is in no unit of length" in read_slide(tmp_path / "a.tif").conversions[0]


@pytest.mark.parametrize(
    "words",
    [
        *("Objective Lens = 20", "Mag=20", "scanned at 20X", "objective 20x/0.8", "Lens x20", "SourceLens=20", "20 x"),
        *("<Magnification>20</Magnification>", "|ScannedMagnification = 20|", "ObjectiveMag 20"),
    ],
)
def test_an_objective_in_any_words_counts(tmp_path, words):
    tifffile.imwrite(tmp_path / "a.tif", RGB[:40, :40], photometric="rgb", description=f"40x40 {words}", metadata=None)
    with pytest.raises(BadImage, match="20× objective"):
        read_slide(tmp_path / "a.tif", declared_mpp=0.25)


@pytest.mark.parametrize("words", ["20 x 30 mm", "image 20", "Lens: 20 mm", "20x30", "page 20 of 20"])
def test_other_numbers_are_no_objective(tmp_path, words):
    tifffile.imwrite(tmp_path / "a.tif", RGB[:40, :40], photometric="rgb", description=words, metadata=None)
    assert read_slide(tmp_path / "a.tif", declared_mpp=0.25).conversions == ()


@pytest.mark.parametrize("text", ["1" * 10**6, "mpp" + " " * 10**6, 'pixel spacing"' * 10**5, "1,2" * 10**5])
def test_a_hostile_description_takes_no_time(tmp_path, text):
    tifffile.imwrite(tmp_path / "a.tif", RGB[:40, :40], photometric="rgb", description=text, metadata=None)
    began = time.process_time()
    assert stated_scale(tmp_path / "a.tif").mpp is None
    assert time.process_time() - began < 10


def test_the_objective_of_ome_xml_counts(tmp_path):
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Instrument ID="Instrument:0"><Objective '
        'ID="Objective:0:0" NominalMagnification="20"/></Instrument><Image ID="Image:0"><Pixels ID="Pixels:0" '
        'SizeC="3"/></Image></OME>'
    )
    tifffile.imwrite(tmp_path / "a.tif", RGB[:40, :40], photometric="rgb", description=xml, metadata=None)
    with pytest.raises(BadImage, match="20× objective"):
        read_slide(tmp_path / "a.tif", declared_mpp=0.25)


def test_a_real_slide(realdata):
    path = realdata / "wsi" / "CMU-1-Small-Region.svs"
    slide = read_slide(path)
    assert (slide.size, slide.mpp, slide.mpp_source) == (Size(2967, 2220), 0.499, MppSource.FILE)
    np.testing.assert_array_equal(slide.pixels[100:300, 200:500], tifffile.imread(path, key=0)[100:300, 200:500])
