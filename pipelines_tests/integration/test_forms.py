"""The forms of runs as the UI reads them: every field is described, typed and has its real default."""

import re

import dagster as dg
import yaml

from orchestration.definitions import build_defs

SCHEMA = """
query ($job: String!) {
  runConfigSchemaOrError(
    selector: {pipelineName: $job, repositoryName: "__repository__", repositoryLocationName: "d"}
  ) {
    ... on RunConfigSchema {
      rootConfigType { key }
      rootDefaultYaml
      allConfigTypes {
        key
        ... on RegularConfigType { givenName }
        ... on WrappingConfigType { ofType { key } }
        ... on MapConfigType { keyType { key } }
        ... on EnumConfigType { values { value } }
        ... on CompositeConfigType { fields { name description configTypeKey } }
      }
    }
  }
}
"""
JOBS = ("train", "train_cells", "train_nuclei", "infer", "infer_nuclei", "register_genes", "search")


def _undescribed(types, key, path=()):
    """Fields without a description, and fields that take anything, below a type."""
    if types[key].get("givenName") == "Any":
        yield f"{'.'.join(path)}: anything"
    if (inner := types[key].get("ofType")) is not None:
        yield from _undescribed(types, inner["key"], path)
    for field in types[key].get("fields", ()):
        if not field["description"]:
            yield f"{'.'.join([*path, field['name']])}: no description"
        yield from _undescribed(types, field["configTypeKey"], (*path, field["name"]))


def _child(types, key, name):
    (field,) = [field for field in types[key]["fields"] if field["name"] == name]
    return field["configTypeKey"]


def test_every_field_is_described_and_no_field_takes_anything_or_a_path_of_the_deployment(ask):
    formless = set()
    for job in JOBS:
        schema = ask(SCHEMA, job=job)["runConfigSchemaOrError"]
        types = {each["key"]: each for each in schema["allConfigTypes"]}
        root = schema["rootConfigType"]["key"]
        for resource in types[_child(types, root, "resources")]["fields"]:
            if resource["name"] != "io_manager":  # Dagster's own
                assert types[_child(types, resource["configTypeKey"], "config")]["fields"] == [], resource
        for op in types[_child(types, root, "ops")]["fields"]:
            config = _child(types, op["configTypeKey"], "config")
            if types[config].get("givenName") == "Any":  # Dagster's way to say that there is none
                formless.add(op["name"])
            else:
                assert list(_undescribed(types, config)) == [], op
        defaults = yaml.safe_load(schema["rootDefaultYaml"])
        if job == "train":
            shown = defaults["ops"]["tissue_weights"]["config"]
            assert (shown["learning_rate"], shown["encoder"], shown["loss"]) == (
                0.001,
                "timm-tf_efficientnet_lite0",
                "dice_focal",
            )
            assert shown["augment"]["scale"] == 1.3
            (losses,) = [t["values"] for t in types.values() if {"value": "tversky"} in (t.get("values") or [])]
            assert len(losses) == 5
    assert formless == {"tissue_hold_out_scores", "cell_hold_out_scores", "nuclei_hold_out_scores"}


def test_run_configs_in_descriptions_can_be_pasted(root):
    defs = build_defs(root.path)
    graph, job = defs.resolve_asset_graph(), defs.resolve_implicit_global_asset_job_def()
    shown = set()
    for key in graph.get_all_asset_keys():
        for block in re.findall("```yaml\n(.*?)```", graph.get(key).description or "", re.DOTALL):
            config = yaml.safe_load(block)
            shown |= set(config["ops"])
            dg.validate_run_config(job.get_subset(asset_selection={key}), config)
    assert shown == {
        *("tissue_weights", "cell_weights", "nuclei_weights", "tissue_search"),
        *("tissue_hold_out", "cell_hold_out", "nuclei_hold_out"),
        *("tissue_champion", "cell_champion", "nuclei_champion"),
    }
