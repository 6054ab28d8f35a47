"""A small tissue network trained on toys for some seconds, where numbers of trained weights are needed."""

from pathlib import Path

from dermatome.inference.compute import Compute
from dermatome.skin.tissue.network import TissueWeights, load_tissue_weights
from dermatome.skin.tissue.task import TissueTask, TissueTraining
from dermatome.synthetic.skin import ToyStain, toy_slide
from dermatome.training.data import Split
from dermatome.training.trainer import train
from dermatome.training.weights import save_weights
from pipelines_tests.toy_tiles import write_tiles

SETTINGS = TissueTraining(
    encoder="tu-tf_mobilenetv3_small_minimal_100", decoder_channels=(32, 16, 16, 8, 8), train_mpp=2.0, epochs=1,
    epoch_steps=60, batch=4, crop_px=96, learning_rate=4e-3, ema_decay=0.95, checkpoint_seconds=1e9,
)  # fmt: skip


def trained(folder: Path, compute: Compute, settings: TissueTraining = SETTINGS) -> TissueWeights:
    """Trains on four toy slides in ``folder``; the weights are ``folder / "weights.safetensors"``."""
    slides = (toy_slide(1000 + seed, size_px=640, stain=list(ToyStain)[seed % 2], name=f"t{seed}") for seed in range(4))
    result = train(TissueTask(settings, Split(tuple(write_tiles(folder / "tiles", slides)))), compute)
    save_weights(folder / "weights.safetensors", result.state, result.card)
    return load_tissue_weights(folder / "weights.safetensors")
