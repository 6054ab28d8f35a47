"""What the soak works on: slides on a misbehaving HPA, bad images in the inbox, and what must come of each."""

import gzip
import random
from dataclasses import dataclass, field

from dermatome.classes import StainingPattern
from dermatome.synthetic.hpa_pages import ToyImage, gene_page_xml
from dermatome.synthetic.skin import toy_slide
from pipelines_tests.bad_images import catalogue
from pipelines_tests.faulty_hpa_server import Fault

TOY_PX = 224
_SLIDES_A_GENE = 8

SETTINGS = """cell_weights = "toy"

[hpa]
base_url = "{url}"
archive_urls = []
allowed_hosts = ["127.0.0.1"]
retries = 3
backoff_s = 0.1
max_wait_s = 1.0
timeout_s = 1.5
total_timeout_s = 3.0
max_page_bytes = 4000000
max_image_bytes = 4000000
at_once = 8
"""

# What a host does for a while, and then serves the image.
_PASSING = (
    Fault(status=429, headers=(("Retry-After", "1"),), times=2), Fault(status=503, times=2),
    Fault(status=500, times=1), Fault(close=True, times=1), Fault(reset=True, times=1),
    Fault(reset=True, truncate=3000, times=2), Fault(truncate=3000, times=2), Fault(truncate=0, times=1),
    Fault(delay_s=2.0, times=1), Fault(drip_headers_s=0.05, times=1), Fault(drip_s=0.01, times=1),
)  # fmt: skip


def _lasting(jpeg):
    """What a host does for good, and what the slide's reason then says."""
    yield Fault(status=404), "not there (404)"
    yield Fault(status=410), "not there (410)"
    yield Fault(status=403), "answered 403"
    yield Fault(status=503), "did not arrive in 4 tries"
    yield Fault(status=429, headers=(("Retry-After", "86400"),)), "did not arrive in 4 tries"
    yield Fault(close=True), "did not arrive in 4 tries"
    yield Fault(reset=True), "did not arrive in 4 tries"
    yield Fault(truncate=2000), "did not arrive in 4 tries"
    yield Fault(drip_s=0.05), "did not arrive in 4 tries"
    yield Fault(drip_headers_s=0.05), "did not arrive in 4 tries"
    yield Fault(html=True), "is a web page"
    yield Fault(body=b"<!DOCTYPE html><html>log in</html>"), "is a web page"
    yield Fault(headers=(("Content-Type", "application/json"),)), "application/json, not an image"
    yield Fault(redirect="https://example.org/x.jpg"), "not allowed"
    yield Fault(redirect="http://10.0.0.1/x.jpg"), "not allowed"
    yield Fault(redirect="file:///etc/passwd"), "not an http"
    yield Fault(redirect="?again"), "redirects more than 5 times"
    yield Fault(flood=500_000_000), "is larger than the limit"
    yield Fault(headers=(("Content-Length", "500000000"),)), "is larger than the limit"
    packed = gzip.compress(jpeg + bytes(100_000_000), 1)
    yield Fault(body=packed, headers=(("Content-Encoding", "gzip"),)), "is larger than the limit"
    yield Fault(cut=len(jpeg) // 2), "damaged or cut short"


_UNSAFE = "ünsafe name.jpg"
"""A file name that is no slide id: it is mapped to one."""
_SLOW = "slowly-copied.jpg"
"""A file that is half there for a while."""
_TWINS = ("twin.jpg", "twin.png")
"""Two images of one slide: one is taken, the other is logged as not taken."""


@dataclass
class Cohort:
    """All slides and what must come of them.

    Attributes:
        good: slide → the name of its content: slides of one content must give the same rows.
        bad: slide → part of the reason it must fail with.
        genes: Ensembl ids whose pages can be had.
        bad_genes: gene → part of its reason.
        contents: JPEG, PNG or TIFF bytes, and suffix, by name of content.
        inbox: file name → bytes.
    """

    good: dict[str, str] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    genes: list[str] = field(default_factory=list)
    bad_genes: dict[str, str] = field(default_factory=dict)
    contents: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    inbox: dict[str, bytes] = field(default_factory=dict)

    @property
    def slides(self):
        """Every slide, good or bad."""
        return [*self.good, *self.bad]


def make_cohort(atlas, slides, toys, odd, seed):
    """Draws the toys, fills the server with pages, images and faults, and the inbox with the catalogue.

    Args:
        atlas: the server, running.
        slides: how many HPA is to have; the catalogue's come on top.
        toys: how many different images they are.
        odd: how many of the catalogue's files that are good, if odd, are taken.
        seed: of the toys and of which slide meets which fault.
    """
    cohort, dice = Cohort(), random.Random(seed)
    for number in range(toys):
        pattern = tuple(StainingPattern)[number % len(StainingPattern)]
        drawn = toy_slide(1000 * seed + number, pattern, size_px=TOY_PX).jpeg()
        cohort.contents[f"toy-{number}"] = (".jpg", drawn)
    lasting, passing = list(_lasting(cohort.contents["toy-0"][1])), list(_PASSING)
    images: dict[str, list[ToyImage]] = {}
    for number in range(slides):
        gene = f"ENSG{number // _SLIDES_A_GENE:011d}"
        image = ToyImage(str(700 + number), f"{number}_A", antibody=f"HPA{number:06d}")
        images.setdefault(gene, []).append(image)
        slide, content = f"{image.folder}-{image.stem}", f"toy-{number % toys}"
        atlas.images[image.path] = cohort.contents[content][1]
        if number < len(lasting):
            atlas.faults[image.path], cohort.bad[slide] = lasting[number]
            continue
        cohort.good[slide] = content
        if number < len(lasting) + len(passing):
            atlas.faults[image.path] = passing[number - len(lasting)]
        elif dice.random() < 0.3:
            atlas.faults[image.path] = dice.choice(passing)
    for number, (gene, shown) in enumerate(images.items()):
        cohort.genes.append(gene)
        atlas.pages[gene] = gene_page_xml(f"TOY{number}", gene, atlas.url, shown)
        if number % 2:
            atlas.faults[f"/{gene}.xml"] = dice.choice(passing)
    _add_bad_genes(atlas, cohort)
    # What is read in parts is good to read and slow to segment.
    readable = [file for file in catalogue() if file.refused is None and max(file.shape) <= 5000]
    taken = dice.sample(readable, min(odd, len(readable)))
    for file in [*taken, *(file for file in catalogue() if file.refused is not None)]:
        # Bad ones beside one another, good ones too: a backfill of scattered slides is a run for each stretch of them.
        slide = f"{'odd' if file.refused is None else 'bad'}-{file.name}"
        cohort.inbox[f"{slide}{file.suffix}"] = file.data
        if file.refused is not None:
            cohort.bad[slide] = file.refused
        else:
            cohort.good[slide] = file.name
            cohort.contents[file.name] = (file.suffix, file.data)
    cohort.inbox[_UNSAFE], cohort.bad["unsafe-name"] = b"", "is empty"
    for name in (_SLOW, *_TWINS):
        cohort.inbox[name], cohort.good[name[:-4]] = cohort.contents["toy-0"][1], "toy-0"
    return cohort


def _add_bad_genes(atlas, cohort):
    page = gene_page_xml("TOYX", "ENSG99999999999", atlas.url, [ToyImage("1", "1_A")])
    for number, (fault, reason) in enumerate(
        (
            (Fault(status=404), "unknown to the Human Protein Atlas"),
            (Fault(html=True), "is a web page"),
            (Fault(status=503), "did not arrive in 4 tries"),
            (Fault(flood=500_000_000), "is larger than the limit"),
            (Fault(cut=200), "cut short"),
            (Fault(), "page of ENSG99999999999"),
        )
    ):
        gene = f"ENSG9000000000{number}"
        atlas.pages[gene], atlas.faults[f"/{gene}.xml"] = page, fault
        cohort.bad_genes[gene] = reason


def fill_inbox(root, cohort, *, partly=False):
    """Puts the catalogue into the inbox, with what else people leave there; ``partly`` copies half of one file.

    That is a folder, links to nowhere, to themselves and to the inbox, two images of one name, and a note.
    """
    root.inbox.mkdir(parents=True, exist_ok=True)
    if not partly:
        (root.inbox / _SLOW).write_bytes(cohort.inbox[_SLOW])
        return
    for name, data in cohort.inbox.items():
        (root.inbox / name).write_bytes(data[: len(data) // 2] if name == _SLOW else data)
    (root.inbox / "a-folder.jpg").mkdir()
    for name, place in (("to-nowhere", "/nowhere/at-all.jpg"), ("to-itself", "to-itself.jpg"), ("round", ".")):
        (root.inbox / f"{name}.jpg").symlink_to(place)
    (root.inbox / "notes.txt").write_text("not an image")
