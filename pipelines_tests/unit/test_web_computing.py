"""The web app without a browser: whose turn it is, which networks and settings are used, what is found."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dermatome.errors import BadImage, BadWeights
from dermatome.geometry import Box, Size
from dermatome.inference.compute import choose_compute
from dermatome.nuclei.maps.networks import load_nuclei
from dermatome.settings import Settings
from dermatome.skin.cells.network import load_cell_network
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.tissue.settings import TissueSettings
from dermatome.storage.files import sha256_bytes
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import Check
from dermatome.synthetic.nuclei import toy_nuclei
from dermatome.synthetic.skin import toy_slide
from dermatome.training.weights import SYNTHETIC_WARNING
from dermatome.web.context import Stopped, Turns, WebContext, networks_note
from dermatome.web.nuclei import find_nuclei, network_name, network_text, nuclei_source
from dermatome.web.skin import SkinNetworks, measure_skin, skin_source
from dermatome.web.uploads import UploadLimits
from dermatome.web.viewer import status_html
from pipelines_tests.records import put_record

LIMITS = UploadLimits()


# --- whose turn it is


def test_a_session_ends_its_own_computation_and_no_other():
    turns, ended = Turns(), []

    def compute(session, started):
        try:
            with turns.of(session) as check:
                started.set()
                for _ in range(500):
                    check()
                    time.sleep(0.01)
        except Stopped:
            ended.append(session)

    def begin(session, started):
        thread = threading.Thread(target=compute, args=(session, started))
        thread.start()
        return thread

    one, other = threading.Event(), threading.Event()
    first = begin("one", one)
    assert one.wait(5)
    second = begin("other", other)
    turns.stop("nobody")
    assert not other.wait(0.2), "two compute at once"
    turns.stop("one")
    first.join(5)
    assert other.wait(5), "the next one never got its turn"
    turns.stop("other")
    second.join(5)
    assert ended == ["one", "other"]


def test_who_waits_may_stop_too():
    turns = Turns()
    with turns.of("one"), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: turns.of("other").__enter__())
        while "other" not in turns._stops:
            time.sleep(0.01)
        turns.stop("other")
        with pytest.raises(Stopped):
            waiting.result(5)


# --- nuclei


def context_of(tmp_path, settings="", weights=""):
    (tmp_path / "settings.toml").write_text(settings)
    root = DataRoot.at(str(tmp_path))
    return WebContext(root, choose_compute("cpu", "fp32", 1, backend="torch"), LIMITS, tmp_path, weights=weights)


def test_the_network_is_that_of_the_command_line_else_the_champion_else_the_settings_else_the_toy(tmp_path):
    for name in ("mine", "given"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
    named, given = f'nuclei_weights = "{tmp_path}/mine.safetensors"', str(tmp_path / "given.safetensors")
    name = network_name(nuclei_source(context_of(tmp_path, named, given)))
    assert name == f"the weights file given.safetensors (sha256 {sha256_bytes(b'given')[:12]})"
    assert network_name(nuclei_source(context_of(tmp_path, named))).startswith(
        "the weights file mine.safetensors (sha256 "
    )
    assert nuclei_source(context_of(tmp_path)).name == "toy"
    assert "synthetic nuclei only" in network_text(nuclei_source(context_of(tmp_path)))
    with pytest.raises(BadWeights, match="named 'n002'"):
        nuclei_source(context_of(tmp_path, 'nuclei_weights = "n002"'))
    values = {"version": "n001", "weights_sha256": "5" * 64}
    put_record(DataRoot(tmp_path), "nuclei_champion", CHAMPION, values=values)
    assert network_name(nuclei_source(context_of(tmp_path, named))) == "the training version n001 (sha256 555555555555)"


def test_settings_of_the_data_root_decide_what_is_found(tmp_path):
    def found(settings):
        context = context_of(tmp_path, settings)
        source, now = nuclei_source(context), context.settings
        network = load_nuclei(source, context.compute, now.nuclei)
        slide = toy_nuclei(11, Size(128, 128)).slide
        return find_nuclei(slide, context, now, source, network, lambda share, text: None)

    plain = found("")
    assert "found by the toy network (sha256 " in plain.summary
    strict = found("[nuclei.instances]\nmin_area_um2 = 40.0\n[til]\nnear_um = 35.0")
    assert 0 < len(strict.nuclei.table) < len(plain.nuclei.table)
    assert strict.nuclei.table["area_um2"].min() >= 40
    assert "within 35 µm" in strict.tables(tmp_path)


def test_a_slide_too_large_at_the_networks_scale_is_not_begun():
    network = SimpleNamespace(weights=SimpleNamespace(card=SimpleNamespace(mpp=0.25)))
    slide = replace(toy_nuclei(11, Size(128, 128)).slide, mpp=1.0)
    with pytest.raises(BadImage, match="over the limit of 0 million"):
        find_nuclei(slide, SimpleNamespace(limits=UploadLimits(max_network_px=200_000)), None, None, network, None)


# --- the skin chain


def test_the_skin_chain_of_a_toy_once_its_tissue_is_known(monkeypatch):
    toy, no_skin = toy_slide(40, size_px=400), lambda: Check("looks_like_skin", False, "No skin.")
    known = SimpleNamespace(
        mask=toy.mask, crop=Box.whole(toy.slide.size), epidermis_share=0.3, warning="", skin_check=no_skin
    )
    monkeypatch.setattr(
        "dermatome.skin.tissue.segment.segment_tissue", lambda slide, network, settings, progress: known
    )
    cells = load_cell_network("toy", choose_compute("cpu", "fp32", 1, backend="torch"))
    shares = []
    settings = Settings(layers=LayerSettings(layer_um=11.0))
    tissue = SimpleNamespace(weights=SimpleNamespace(card=SimpleNamespace(mpp=1.0)))
    found = measure_skin(
        toy.slide,
        SkinNetworks(tissue, cells, cells.compute),
        settings,
        UploadLimits(),
        lambda share, text: shares.append(share),
    )
    assert found.layers.layer_um == 11.0, "the settings of layers are not used"
    assert "layers of" in found.summary
    assert found.warning == f"{SYNTHETIC_WARNING} No skin.", "the network of cells is the toy one"
    assert 'class="dm-status dm-warn"' in status_html(found.summary, warning=found.warning)
    assert shares == sorted(shares)
    assert found.view().count("<img") == 4


def test_without_a_champion_the_page_names_the_starter_and_what_a_missing_network_needs(tmp_path):
    context = context_of(tmp_path, 'nuclei_weights = "n002"')
    assert "no weights of nuclei named 'n002'" in networks_note(lambda: network_text(nuclei_source(context)))
    source = skin_source(context.root, Settings(cell_weights="toy"))
    assert "Tissue: the starter (sha256 " in source.text
    assert "trained on synthetic skin only" in source.text
    assert "materialize tissue_champion" in source.text
    assert source.load(TissueSettings(), context.compute).tissue.weights.card.synthetic
