"""Networks of cells and nuclei in Dagster: hold-out set, scores, promotion, and versions that have seen the set."""

import duckdb
import pytest

from assets.partitions import CELL_VERSIONS, NUCLEI_CASES, NUCLEI_VERSIONS
from dermatome.errors import BadSetting, BadWeights
from dermatome.geometry import Size
from dermatome.nuclei.maps.networks import find_nucleus_weights
from dermatome.registry.champion import choose_champion
from dermatome.registry.model_kinds import CELLS, NUCLEI
from dermatome.registry.promotion import check_promotion
from dermatome.skin.cells.networks import find_cell_weights
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import read_record, require_record
from dermatome.synthetic.nuclei import toy_nuclei
from dermatome.warehouse.store import build_store
from pipelines_tests.annotated_cells import write_set
from pipelines_tests.asset_runs import put, run
from pipelines_tests.nuclei_case import save_toy_case

TINY = {
    "encoder": "tu-tf_mobilenetv3_small_minimal_100", "decoder_channels": [8] * 5, "crop_px": 64, "batch": 2,
    "epochs": 1, "epoch_steps": 1, "validation_share": 0.4,
}  # fmt: skip


@pytest.fixture
def root(tmp_path):
    root = DataRoot(tmp_path)
    compute = '[compute]\ndevice = "cpu"\nbackend = "torch"\nthreads = 1\n'
    root.settings.write_text(f'cell_weights = "toy"\n{compute}[nuclei_patches]\nsize_px = 96\nstride_px = 96\n')
    return root


def test_a_version_is_scored_on_the_hold_out_set_and_promoted_and_a_leaking_one_refused(root, instance):
    cases = ["a", "b", "c"]
    for seed, case in enumerate(cases):
        save_toy_case(root.nuclei_annotations / case, [toy_nuclei(seed, Size(192, 192))])
    chain = ("nuclei_weights", "nuclei_hold_out_scores", "nuclei_champion")
    instance.add_dynamic_partitions(NUCLEI_CASES.name, cases)
    instance.add_dynamic_partitions(NUCLEI_VERSIONS.name, ["n001", "n002"])
    for case in cases:
        assert run(root, instance, "nuclei_patches", key=case).success
    assert run(root, instance, "nuclei_hold_out", config={"nuclei_hold_out": {"cases": ["c"]}}).success
    done = run(root, instance, *chain, key="n001", config={"nuclei_weights": TINY})
    assert done.success
    checks = {check.check_name: check.passed for check in done.get_asset_check_evaluations()}
    assert checks == {"no_leakage": True, "no_score_drops": True, "trained_enough": True}
    trained = require_record(root, "nuclei_weights", "n001")
    assert set(trained.inputs) == {"a", "b"}, "the hold-out set is left out"
    weights = find_nucleus_weights(root, "toy")
    assert (weights.name, weights.sha256) == ("n001", trained.values["weights_sha256"])
    seen = {**TINY, "cases": cases, "seed": 5}
    assert not run(root, instance, *chain, key="n002", config={"nuclei_weights": seen}).success
    scores = require_record(root, "nuclei_hold_out_scores", "n002")
    assert (scores.values["hold_out_leaks"], scores.checks[0].passed) == (4, False)
    with pytest.raises(BadSetting, match="trained on 4 of the hold-out samples"):
        choose_champion(root, NUCLEI, version="n002")
    (root.folder("nuclei_weights", "n002") / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(BadWeights, match="not the one that its training wrote"):
        choose_champion(root, NUCLEI, version="n002", despite_drop=True)
    with duckdb.connect(str(build_store(root).path), read_only=True) as store:
        assert store.execute("select version from nuclei_champion").fetchall() == [("n001",)]
        assert store.execute("select samples, sources from nuclei_hold_out").fetchall() == [(4, "c")]
        assert store.execute("select version, hold_out_leaks from nuclei_hold_out_scores order by 1").fetchall() == [
            ("n001", 0),
            ("n002", 4),
        ]


@pytest.mark.parametrize(
    ("kind", "score", "named"),
    [
        ("nuclei", "pq_binary", "PQ"), ("nuclei", "aji", "AJI"),
        ("nuclei", "dice_lymphocyte_micro", "F1 of lymphocyte"), ("cell", "ap_90", r"AP at IoU 0\.9"),
    ],
)  # fmt: skip
def test_a_drop_of_any_decisive_score_is_refused(root, kind, score, named):
    good = dict.fromkeys(("pq_binary", "aji", "dice_lymphocyte_micro", "ap_50", "ap_75", "ap_90"), 0.6)
    put(root, f"{kind}_hold_out", CHAMPION, hold_out_sha256="h", sources="c")
    put(root, f"{kind}_champion", CHAMPION, version="n001", weights_sha256="a" * 64)
    for version, sha256, scores in (("n001", "a" * 64, good), ("n002", "b" * 64, {**good, score: 0.55})):
        put(root, f"{kind}_hold_out_scores", version, weights_sha256=sha256, hold_out_sha256="h", **scores)
    networks = NUCLEI if kind == "nuclei" else CELLS
    with pytest.raises(BadSetting, match=f"worse than the champion n001 on the hold-out set: {named} by 0.050"):
        check_promotion(root, networks, "n002", "b" * 64, 0.02)
    check_promotion(root, networks, "n002", "b" * 64, 0.06)


TINY_CELLS = {
    "nbase": [2, 4, 4, 4, 8], "diameter_px": 16.0, "crop_px": 64, "batch": 2, "epochs": 1, "epoch_steps": 1,
    "validation_share": 0.3,
}  # fmt: skip


def test_a_version_is_trained_scored_and_promoted(root, instance):
    write_set(root.cell_annotations / "study", range(3))
    write_set(root.cell_annotations / "kept", range(10, 11))
    before = find_cell_weights(root, "toy")
    assert (before.name, before.data_version) == ("toy", "NULL")
    instance.add_dynamic_partitions(CELL_VERSIONS.name, ["v001"])
    assert run(root, instance, "cell_hold_out", config={"cell_hold_out": {"sets": ["kept"]}}).success
    done = run(
        root, instance, "cell_weights", "cell_hold_out_scores", "cell_champion", key="v001",
        config={"cell_weights": TINY_CELLS},
    )  # fmt: skip
    assert done.success
    verdicts = {check.check_name: check.passed for check in done.get_asset_check_evaluations()}
    assert verdicts == {"no_leakage": True, "no_precision_drops": True, "trained_enough": True}
    record = read_record(root.record("cell_weights", "v001"))
    assert (record.values["images_train"], record.values["images_validation"]) == (2, 1)
    assert set(record.inputs) == {"study"}  # the hold-out set's images are held out
    made = {path.name for path in root.folder("cell_weights", "v001").iterdir()}
    assert made >= {"weights.safetensors", "weights.tiles.parquet", "curves.png", "precision.png", "samples.png"}
    assert not (root.checkpoints("cell_weights", "v001") / "checkpoint.pt").exists()
    chosen = find_cell_weights(root, "toy")
    assert (chosen.name, chosen.sha256) == ("v001", record.values["weights_sha256"])
    assert chosen.data_version == read_record(root.record("cell_champion", CHAMPION)).data_version
    with duckdb.connect(str(build_store(root).path), read_only=True) as store:
        assert store.execute("select version, images_train from cell_training").fetchall() == [("v001", 2)]
        assert store.execute("select slide, cells from cell_training_images").fetchall()[0][1] == 16
        assert store.execute("select count(*) from cell_training_epochs").fetchall() == [(1,)]
        assert store.execute("select version from cell_champion").fetchall() == [("v001",)]
