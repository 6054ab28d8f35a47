"""The small network that ships, on toys it never saw."""

from dermatome.geometry import Size
from dermatome.inference.compute import choose_compute
from dermatome.metrics.panoptic import nucleus_values, score_nuclei
from dermatome.nuclei.maps.network import load_nucleus_weights
from dermatome.nuclei.maps.networks import TOY_WEIGHTS
from dermatome.nuclei.maps.segment import prepare_nuclei, segment_nuclei
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.synthetic.nuclei import toy_nuclei


def test_it_finds_nuclei_and_tells_their_classes():
    settings = NucleusSettings(batch=4)
    loaded = load_nucleus_weights(TOY_WEIGHTS)
    network = prepare_nuclei(loaded, choose_compute("cpu", "fp32", 1, backend="torch"), settings)
    toys = [toy_nuclei(seed, Size(256, 256)) for seed in (100, 101, 102)]
    found = segment_nuclei([toy.slide for toy in toys], network, settings)
    scores = nucleus_values(
        [score_nuclei(toy.maps, one.whole(), toy.slide.mpp) for toy, one in zip(toys, found, strict=True)]
    )
    assert scores["pq_binary"] >= 0.70
    assert scores["class_accuracy"] >= 0.85


def test_it_is_small_and_says_what_it_is_for():
    assert TOY_WEIGHTS.stat().st_size < 5_000_000
    card = load_nucleus_weights(TOY_WEIGHTS).card
    assert "toy" in card.created_from[0]
    assert card.scores["score"] > 0.8
