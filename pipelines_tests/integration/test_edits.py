"""What staleness says after random edits is what fingerprints over all inputs say: nothing falsely fresh or stale."""

from datetime import timedelta

from assets import slide_asset
from dermatome.slides.source import SlideSource, sources_now
from pipelines_tests.experiments import edits
from pipelines_tests.records import record_of


def test_after_sixty_random_edits_exactly_what_changed_is_stale(tmp_path, capsys):
    counted = edits.run(tmp_path, slides=6, edits=60, seed=0)
    assert capsys.readouterr().out == ""
    for wrong in ("falsely fresh", "falsely stale", "wrong after infer", "stale after infer"):
        assert counted[wrong] == 0, wrong
    assert counted["edits"] == 60
    assert counted["stale"] > 100
    assert 0 < counted["recomputed"] < counted["runs"] * 6 * 4, "not everything is computed again each time"
    for kind in ("setting", "champion", "image", "annotation", "code", "weights"):
        assert counted[kind] > 0, kind


def test_an_image_that_nobody_looks_at_would_be_counted_as_falsely_fresh(tmp_path, monkeypatch):
    monkeypatch.setattr(slide_asset, "inputs_now", lambda *_: None)
    assert edits.run(tmp_path, slides=4, edits=12, seed=0)["falsely fresh"] > 0


def test_an_image_is_read_again_only_if_it_was_changed_since(tmp_path):
    path = tmp_path / "inbox" / "a.png"
    path.parent.mkdir()
    path.write_bytes(b"image")
    source = SlideSource("a", "folder", str(path))
    record = record_of("slide_images", "a", values={"location": "inbox/a.png"})
    now = sources_now({"a": source}, tmp_path, "hpa_images")
    assert now(record) == {"hpa_images": source.identity}, "it was made a moment ago"
    record = record_of("slide_images", "a", values={"location": "inbox/a.png"}, made_at=record.made_at + timedelta(1))
    assert now(record) == {}
    elsewhere = record_of("slide_images", "a", values={"location": "inbox/b.png"}, made_at=record.made_at)
    assert now(elsewhere) == {"hpa_images": source.identity}
    assert now(record_of("slide_images", "other")) == {}
    path.unlink()
    assert now(elsewhere) == now(record) == {}
    page = SlideSource("h", "hpa", "https://www.proteinatlas.org/images/1/1_A.jpg")
    assert sources_now({"h": page}, tmp_path, "hpa_images")(record_of("slide_images", "h")) == {
        "hpa_images": page.identity
    }
