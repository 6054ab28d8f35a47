"""The run configs of training versions."""

import dagster as dg
from pydantic import Field


class TissueTraining(dg.Config):
    """The run config of a training; what is not given takes `dermatome.skin.tissue.train.TrainSettings`' default."""

    encoder: str | None = Field(default=None, description="Any of segmentation-models-pytorch's, such as resnet34.")
    decoder_channels: list[int] | None = Field(default=None, description="Five numbers, coarse to fine.")
    encoder_weights: str | None = Field(default=None, description="imagenet, fetched once; None: from scratch.")
    loss: str | None = Field(default=None, description="dice_focal, dice, focal, cross_entropy or tversky.")
    dice_weight: float | None = Field(default=None, description="Of the Dice part of dice_focal.")
    focal_weight: float | None = Field(default=None, description="Of its focal part.")
    class_weighting: str | None = Field(default=None, description="equal, inverse or inverse_root of the pixels.")
    dropout: float | None = None
    epochs: int | None = None
    epoch_steps: int | None = Field(default=None, description="Smallest number of steps that count as an epoch.")
    max_minutes: float | None = Field(default=None, description="Limit of the whole training.")
    batch: int | None = None
    accumulate: int | None = Field(default=None, description="Passes of a batch in one step; GPUs share them.")
    patience: int | None = Field(default=None, description="Epochs without a better mean IoU before an early end.")
    crop_px: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    ema_decay: float | None = Field(default=None, description="Of the weights' running mean; 0 leaves it out.")
    seed: int | None = None
    train_mpp: float | None = Field(default=None, description="Microns per pixel that the network sees.")
    coarse_factor: float | None = None
    augment: dict[str, float] = Field(default={}, description="scale, elastic_px, stain, gamma, contrast, blur_px, …")
    gpus: int = Field(default=1, description="How many share the passes of a step.")
    continue_from: str | None = Field(default=None, description="A version, or a weights file; v001_cont1 needs none.")
    from_study: str | None = Field(default=None, description="A study of tissue_search: its best trial's settings.")
    annotated_slides: list[str] | None = Field(default=None, description="None: all that have tiles.")

    def given(self) -> dict[str, object]:
        """The training settings that differ from the defaults."""
        from dermatome.training.settings import given_settings

        return given_settings({name: value for name, value in self.model_dump().items() if value not in (None, {})})


class CellTraining(dg.Config):
    """The run config of a cell network's training; what is not given takes `CellTrainSettings`' default."""

    nbase: list[int] | None = Field(default=None, description="Five channel numbers, 2 first; cyto2's by default.")
    diameter_px: float | None = Field(default=None, description="What a cell measures where the network sees it.")
    crop_px: int | None = Field(default=None, description="Side of a view, at that scale.")
    epochs: int | None = None
    epoch_steps: int | None = Field(default=None, description="Smallest number of steps that count as an epoch.")
    max_minutes: float | None = Field(default=None, description="Limit of the whole training.")
    batch: int | None = None
    accumulate: int | None = Field(default=None, description="Passes of a batch in one step; GPUs share them.")
    patience: int | None = Field(default=None, description="Epochs without a better AP at IoU 0.5 before an early end.")
    learning_rate: float | None = None
    weight_decay: float | None = None
    seed: int | None = None
    validation_share: float | None = Field(default=None, description="Of the images, held out.")
    zoom: float | None = Field(default=None, description="Views are scaled by up to this much more or less.")
    gain: float | None = Field(default=None, description="Largest relative change of brightness.")
    noise: float | None = Field(default=None, description="Of pixels, where nuclei are about 1.")
    gpus: int = Field(default=1, description="How many share the passes of a step.")
    continue_from: str | None = Field(
        default=None, description="A version, cyto2, toy or a weights file; none: from scratch; v001_cont1 needs none."
    )
    sets: list[str] | None = Field(
        default=None, description="Folders of cell_annotations/; none: all but the hold-out set's."
    )

    def given(self) -> dict[str, object]:
        """The training settings that differ from the defaults."""
        from dermatome.skin.cells.train import given_cell_settings

        return given_cell_settings({name: value for name, value in self.model_dump().items() if value is not None})
