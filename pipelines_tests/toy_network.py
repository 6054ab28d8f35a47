"""A small tissue network trained on toys for some seconds, and its classes of an image that lies in memory."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from dermatome.classes import ClassMap, RgbImage
from dermatome.geometry import Size
from dermatome.inference.canvas import most_probable
from dermatome.inference.compute import Compute
from dermatome.inference.predictor import Predictor, Scene
from dermatome.skin.tissue.network import TissueWeights, load_tissue_weights
from dermatome.skin.tissue.task import TissueTask, TissueTraining
from dermatome.synthetic.skin import ToyStain, toy_slide
from dermatome.training.data import Split
from dermatome.training.trainer import train
from dermatome.training.weights import save_weights
from pipelines_tests.toy_tiles import write_tiles

SETTINGS = TissueTraining(
    encoder="tu-tf_mobilenetv3_small_minimal_100", encoder_weights=None, decoder_channels=(32, 16, 16, 8, 8),
    train_mpp=2.0, epochs=1, epoch_steps=60, batch=4, crop_px=96, learning_rate=4e-3, ema_decay=0.95,
    checkpoint_seconds=1e9,
)  # fmt: skip


def trained(folder: Path, compute: Compute, settings: TissueTraining = SETTINGS) -> TissueWeights:
    """Trains on four toy slides in ``folder``; the weights are ``folder / "weights.safetensors"``."""
    slides = (toy_slide(1000 + seed, size_px=640, stain=list(ToyStain)[seed % 2], name=f"t{seed}") for seed in range(4))
    result = train(TissueTask(settings, Split(tuple(write_tiles(folder / "tiles", slides)))), compute)
    save_weights(folder / "weights.safetensors", result.state, result.card)
    return load_tissue_weights(folder / "weights.safetensors")


def labelled(predictor: Predictor, pixels: RgbImage) -> tuple[ClassMap, int]:
    """The most probable class of each pixel of an image, and how many tiles the network saw."""
    mask = np.empty(pixels.shape[:2], np.uint8)

    def decide(top: int, rows: npt.NDArray[np.float32]) -> None:
        mask[top : top + rows.shape[1]] = most_probable(rows)

    (tiles,) = predictor.run([Scene(Size(*mask.shape), lambda: [pixels], decide)])
    return mask, tiles
