"""Trains a champion for a minute: the soak needs weights, and does not ask how good they are."""

import sys
from pathlib import Path

from dermatome.storage.layout import DataRoot
from orchestration.demo import Demo, train_champion
from orchestration.instance import open_instance


def main(root):
    """Materializes training tiles, weights and the champion below ``root``; returns whether that succeeded."""
    with open_instance() as instance:
        return train_champion(Demo(root, instance), epochs=2)


if __name__ == "__main__":
    sys.exit(not main(DataRoot(Path(sys.argv[1]))))
