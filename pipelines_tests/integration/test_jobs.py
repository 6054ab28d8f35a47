"""Jobs and schedules against a real instance: what is missing is requested, for skin and nuclei alike."""

import dagster as dg
import pytest

from assets.partitions import GENES, REQUESTED_BY
from orchestration import schedules
from orchestration.definitions import build_defs
from orchestration.requests import NUCLEI, SKIN
from pipelines_tests.integration.test_sensors import champion_made, failed


class Inference:
    """The job of one chain that requests what is missing, and its weights."""

    def __init__(self, root, instance, chain):
        self.root, self.instance, self.chain = root, instance, chain
        self.first, *self.others = chain.stages
        self._job, self._op = (
            ("infer", "request_missing") if chain is SKIN else ("infer_nuclei", "request_missing_nuclei")
        )
        self._defs = build_defs(root.path)

    def weights_made(self):
        if self.chain is SKIN:
            champion_made(self.root)
        else:
            self.root.settings.write_text('nuclei_weights = "toy"\n')

    def run(self, **config):
        """The slides of each stage that the job's last backfill is to materialize."""
        job = self._defs.resolve_job_def(self._job)
        run_config = {"ops": {self._op: {"config": config}}}
        result = job.execute_in_process(instance=self.instance, run_config=run_config, raise_on_error=False)
        assert result.success == (config.get("slides") != ["unknown"])
        if not (backfills := self.instance.get_backfills()):
            return {}
        assert backfills[0].tags[REQUESTED_BY] == self.chain.requested_by
        subsets = backfills[0].asset_backfill_data.target_subset.partitions_subsets_by_asset_key
        return {key.to_user_string(): sorted(subset.get_partition_keys()) for key, subset in subsets.items()}

    def nightly(self):
        name = "backfill_new_slides" if self.chain is SKIN else "backfill_new_nuclei"
        (schedule,) = [schedule for schedule in schedules.schedules("UTC") if schedule.name == name]
        (request,) = schedule.evaluate_tick(dg.build_schedule_context(instance=self.instance)).run_requests
        return self.run(**request.run_config["ops"][self._op]["config"])


@pytest.fixture(params=[SKIN, NUCLEI], ids=["skin", "nuclei"])
def inference(request, root, instance):
    return Inference(root, instance, request.param)


def test_what_is_missing_or_failed_is_requested_at_every_stage_and_not_twice(inference, root, instance):
    inference.weights_made()
    instance.add_dynamic_partitions(inference.chain.partitions, ["made", "broken", "new"])
    for stage in inference.chain.stages:
        instance.report_runless_asset_event(dg.AssetMaterialization(stage, partition="made"))
    failed(root, inference.first, "broken")
    failed(root, inference.others[-1], "made")
    missing = {stage: ["broken", "new"] for stage in inference.chain.stages}
    expected = missing | {inference.others[-1]: ["broken", "made", "new"]}
    assert inference.run() == expected
    assert inference.run() == expected
    assert len(instance.get_backfills()) == 1, "the first is still in progress"


def test_without_weights_only_images_are_requested_and_the_log_says_why(inference, instance, capfd):
    instance.add_dynamic_partitions(inference.chain.partitions, ["new"])
    assert inference.run() == {inference.first: ["new"]}
    assert "only images are requested" in capfd.readouterr().err


def test_settings_that_name_missing_weights_count_as_no_weights(root, instance):
    inference = Inference(root, instance, NUCLEI)
    root.settings.write_text('nuclei_weights = "n007"\n')
    instance.add_dynamic_partitions(NUCLEI.partitions, ["new"])
    assert inference.run() == {"nuclei_slides": ["new"]}


def test_by_night_what_failed_waits_until_it_is_due(inference, root, instance):
    inference.weights_made()
    instance.add_dynamic_partitions(inference.chain.partitions, ["broken", "new"])
    failed(root, inference.first, "broken")
    assert inference.nightly() == {stage: ["new"] for stage in inference.chain.stages}


def test_a_person_chooses_slides_and_their_number(inference, instance):
    instance.add_dynamic_partitions(inference.chain.partitions, list("abcd"))
    assert inference.run(slides=["unknown"]) == {}
    assert inference.run(slides=["b", "d"]) == {inference.first: ["b", "d"]}
    assert inference.run(slides=["a", "c"], max_slides=1) == {inference.first: ["a"]}


def test_register_genes_takes_a_list_and_a_file_of_the_data_root(root, instance):
    listed = root.path / "genes.tsv"
    listed.write_text("Gene\tEnsembl\nKRT10\tENSG00000186395\nKRT14\tENSG00000186847\n")
    job = build_defs(root.path).resolve_job_def("register_genes")
    for _ in range(2):
        config = {"ops": {"add_genes": {"config": {"file": "genes.tsv", "ensembl_ids": ["ENSG00000096696"]}}}}
        assert job.execute_in_process(instance=instance, run_config=config).success
    assert instance.get_dynamic_partitions(GENES.name) == ["ENSG00000186395", "ENSG00000186847", "ENSG00000096696"]
    empty = job.execute_in_process(
        instance=instance, run_config={"ops": {"add_genes": {"config": {}}}}, raise_on_error=False
    )
    assert not empty.success


def test_refresh_hpa_asks_for_all_genes_in_ranges(instance, monkeypatch):
    monkeypatch.setattr(schedules, "_GENES_PER_RUN", 2)
    genes = [f"ENSG0000000000{number}" for number in range(5)]
    instance.add_dynamic_partitions(GENES.name, genes)
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=dg._time.get_current_datetime())
    requests = schedules.refresh_hpa(context)
    ranges = [
        (r.tags["dagster/asset_partition_range_start"], r.tags["dagster/asset_partition_range_end"]) for r in requests
    ]
    assert ranges == [(genes[0], genes[1]), (genes[2], genes[3]), (genes[4], genes[4])]
    assert len({r.run_key for r in requests}) == 3
