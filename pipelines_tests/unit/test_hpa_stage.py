"""A gene's page as a stage: when it is asked for anew, and when its validators are sent."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dermatome.hpa.client import HpaClient
from dermatome.hpa.settings import HpaSettings
from dermatome.hpa.stage import make_images
from dermatome.storage.record import StageResult
from dermatome.synthetic.hpa_pages import ToyImage, gene_page_xml
from pipelines_tests.faulty_hpa_server import FaultyHpaServer

GENE = "ENSG00000186081"


@pytest.fixture
def atlas() -> Iterator[FaultyHpaServer]:
    with FaultyHpaServer() as server:
        server.pages[GENE] = gene_page_xml(
            "KRT5", GENE, "https://images.proteinatlas.org", [ToyImage("373", "1_A_1_2")]
        )
        yield server


def read(folder: Path, site: FaultyHpaServer, *archives: FaultyHpaServer) -> StageResult:
    urls = tuple(archive.url for archive in archives)
    settings = HpaSettings(base_url=site.url, archive_urls=urls, allowed_hosts=("127.0.0.1",), retries=0)
    with HpaClient(settings) as client:
        return make_images(client, GENE, folder / f"{GENE}.xml", folder / "made", "Skin")


def validators_sent(site: FaultyHpaServer) -> bool:
    return bool({"If-None-Match", "If-Modified-Since"} & set(site.requests[-1].headers))


def test_a_page_of_the_same_site_is_not_sent_again(atlas: FaultyHpaServer, tmp_path: Path) -> None:
    first = read(tmp_path, atlas)
    again = read(tmp_path, atlas)
    assert (first.values["http_status"], again.values["http_status"]) == (200, 304)
    assert again.data_version == first.data_version


def test_validators_of_another_site_are_not_sent(atlas: FaultyHpaServer, tmp_path: Path) -> None:
    read(tmp_path, atlas)
    with FaultyHpaServer(pages=dict(atlas.pages)) as other:
        assert read(tmp_path, other).values["http_status"] == 200
        assert not validators_sent(other)
        assert read(tmp_path, other).values["http_status"] == 304


def test_validators_of_an_archives_page_are_not_sent(atlas: FaultyHpaServer, tmp_path: Path) -> None:
    with FaultyHpaServer() as site:
        read(tmp_path, site, atlas)
        site.pages[GENE] = atlas.pages[GENE]
        assert read(tmp_path, site, atlas).values["http_status"] == 200
        assert not validators_sent(site)


def test_validators_of_another_page_are_not_sent(atlas: FaultyHpaServer, tmp_path: Path) -> None:
    read(tmp_path, atlas)
    # As when a run is killed between the page of another site and the note of it.
    (tmp_path / f"{GENE}.xml").write_bytes(atlas.pages[GENE].replace(b"KRT5", b"KRT6"))
    assert read(tmp_path, atlas).values["gene"] == "KRT5"


@pytest.mark.parametrize("noted", [b"", b"[]", json.dumps({"etag": "x"}).encode()])
def test_notes_that_cannot_be_used_are_left_aside(atlas: FaultyHpaServer, tmp_path: Path, noted: bytes) -> None:
    read(tmp_path, atlas)
    (tmp_path / f"{GENE}.json").write_bytes(noted)
    assert read(tmp_path, atlas).values["http_status"] == 200
    assert not validators_sent(atlas)
