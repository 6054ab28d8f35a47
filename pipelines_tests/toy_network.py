"""A small tissue network trained on toys for some seconds, where numbers of trained weights are needed."""

from pathlib import Path

import numpy as np
from PIL import Image

from dermatome.compute import Compute
from dermatome.palette import Palette, classes_to_rgb
from dermatome.skin.crops import load_tiles
from dermatome.toy import ToyStain, toy_slide
from dermatome.training import train
from dermatome.training_settings import TrainSettings
from dermatome.weights import LoadedWeights, load_weights, save_weights

SETTINGS = TrainSettings(
    encoder="tu-tf_mobilenetv3_small_minimal_100",
    decoder_channels=(32, 16, 16, 8, 8),
    train_mpp=2.0,
    epochs=1,
    epoch_steps=60,
    batch=4,
    crop_px=96,
    learning_rate=4e-3,
    ema_decay=0.95,
    checkpoint_seconds=1e9,
)


def trained(folder: Path, compute: Compute) -> LoadedWeights:
    """Trains on four toy slides in ``folder``; the weights are ``folder / "weights.safetensors"``."""
    palette = Palette.shipped("dermatome")
    tiles = folder / "tiles"
    for kind in ("images", "masks"):
        (tiles / kind).mkdir(parents=True)
    palette.save(tiles / "palette.json")
    for seed in range(4):
        toy = toy_slide(1000 + seed, size_px=640, stain=list(ToyStain)[seed % 2])
        Image.fromarray(toy.slide.whole()).save(tiles / "images" / f"t{seed}.png")
        Image.fromarray(classes_to_rgb(np.ascontiguousarray(toy.mask), palette)).save(tiles / "masks" / f"t{seed}.png")
    result = train(load_tiles(tiles), [], SETTINGS, compute)
    save_weights(folder / "weights.safetensors", result.state, result.card)
    return load_weights(folder / "weights.safetensors")
