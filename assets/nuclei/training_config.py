"""The run config of a training of nuclei."""

from typing import Any

import dagster as dg
from pydantic import Field


class NucleusTrainingConfig(dg.Config):
    """What is not given takes the default of `dermatome.nuclei.maps.training_settings.NucleusTraining`."""

    encoder: str | None = Field(default=None, description="Any of segmentation-models-pytorch's, such as resnet34.")
    decoder_channels: list[int] | None = Field(default=None, description="Five numbers, coarse to fine.")
    encoder_weights: str | None = Field(default=None, description="None: from scratch; imagenet is downloaded.")
    dropout: float | None = None
    epochs: int | None = None
    epoch_steps: int | None = Field(default=None, description="Smallest number of steps that count as an epoch.")
    max_minutes: float | None = Field(default=None, description="Limit of the whole training.")
    batch: int | None = None
    accumulate: int | None = Field(default=None, description="Passes of a batch in one step; GPUs share them.")
    patience: int | None = Field(default=None, description="Epochs without a better score before an early end.")
    crop_px: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    warmup_epochs: float | None = None
    seed: int | None = None
    mpp: float | None = Field(default=None, description="Microns per pixel of the patches.")
    inside_share: float | None = Field(default=None, description="Of Dice of the inside in the selection score.")
    boundary_share: float | None = Field(default=None, description="Of Dice of the boundary in it.")
    loss: dict[str, Any] = Field(default={}, description="semantic_weight, boundary_weighting, focal_gamma, …")
    sampling: dict[str, Any] = Field(default={}, description="enabled, lymphocyte, neutrophil, macrophage, both, …")
    augment: dict[str, float] = Field(default={}, description="scale, elastic_px, stain, gamma, contrast, blur_px, …")
    gpus: int = Field(default=1, description="How many share the passes of a step.")
    continue_from: str | None = Field(default=None, description="A version, or a weights file, to go on from.")
    cases: list[str] | None = Field(default=None, description="Patients to learn from; None: all that have patches.")

    def given(self) -> dict[str, Any]:
        """The training settings that differ from the defaults."""
        own = {"gpus", "continue_from", "cases"}
        return {name: value for name, value in self.model_dump(exclude=own).items() if value not in (None, {})}
