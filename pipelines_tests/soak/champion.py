"""A champion to make masks with, trained for a minute: what the soak asks of weights is only that they are some."""

import sys
from pathlib import Path

from assets.partitions import ANNOTATED_SLIDES, TRAINING_VERSIONS
from dermatome.storage.layout import DataRoot
from dermatome.synthetic import cohort
from orchestration.demo import TRAINING, VERSION, Demo
from orchestration.instance import open_instance
from pipelines_tests.faulty_hpa_server import FaultyHpaServer


def main(root: DataRoot) -> bool:
    """Makes tiles, weights and champion below ``root``; whether that went well."""
    cohort.write_annotations(root.annotations)
    with open_instance() as instance, FaultyHpaServer() as atlas:
        demo = Demo(root, instance, atlas)
        instance.add_dynamic_partitions(str(ANNOTATED_SLIDES.name), list(cohort.ANNOTATED))
        instance.add_dynamic_partitions(str(TRAINING_VERSIONS.name), [VERSION])
        good = demo.make("training_tiles", cohort.ANNOTATED)
        good &= demo.make("tissue_weights", [VERSION], config=TRAINING | {"epochs": 2})
        return good and demo.make("tissue_champion", [None])


if __name__ == "__main__":
    sys.exit(not main(DataRoot(Path(sys.argv[1]))))
