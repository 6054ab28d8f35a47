"""All settings in one place: defaults in code, changes in `settings.toml` of the data root.

The platform and the web app read it alike.
"""

import dataclasses
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dermatome.errors import BadSetting
from dermatome.hpa.settings import HpaSettings
from dermatome.inference.compute import ComputeSettings
from dermatome.nuclei.maps.segment import NucleusSettings
from dermatome.nuclei.patches.cut import PatchSettings
from dermatome.nuclei.til.score import TilSettings
from dermatome.pipeline.batch import BatchSettings
from dermatome.registry.promotion import PromotionSettings
from dermatome.skin.cells.segment import CellSettings
from dermatome.skin.layers.measure import LayerSettings
from dermatome.skin.tissue.segment import TissueSettings
from dermatome.slides.plain import MAX_SIDE_PX
from dermatome.slides.slide import DECLARED_MPP


@dataclass(frozen=True)
class ImageSettings:
    """How image files are read.

    Attributes:
        declared_mpp: microns per pixel; HPA gives none, and a 1 mm core spans about 2,000 of an image's 3,000 px.
        max_side_px: images wider or higher than this are refused.
        tissue: which tissue's images are taken from HPA's pages.
    """

    declared_mpp: float = DECLARED_MPP
    max_side_px: int = MAX_SIDE_PX
    tissue: str = "Skin"


@dataclass(frozen=True)
class NucleiImageSettings:
    """How H&E slides are read.

    Attributes:
        declared_mpp: microns per pixel of files that state no scale.
        max_side_px: images wider or higher than this are refused; TIFFs and vendors' files that are read in parts may
            be larger.
    """

    declared_mpp: float = 0.25
    max_side_px: int = MAX_SIDE_PX


@dataclass(frozen=True)
class Settings:
    """Every section of the settings file."""

    images: ImageSettings = field(default_factory=ImageSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    hpa: HpaSettings = field(default_factory=HpaSettings)
    tissue: TissueSettings = field(default_factory=TissueSettings)
    cells: CellSettings = field(default_factory=CellSettings)
    layers: LayerSettings = field(default_factory=LayerSettings)
    promotion: PromotionSettings = field(default_factory=PromotionSettings)
    nuclei_images: NucleiImageSettings = field(default_factory=NucleiImageSettings)
    nuclei_patches: PatchSettings = field(default_factory=PatchSettings)
    nuclei: NucleusSettings = field(default_factory=NucleusSettings)
    til: TilSettings = field(default_factory=TilSettings)
    cell_weights: str = "cyto2"
    nuclei_weights: str = ""
    nuclei_opacity: float = 0.45


def load_settings(path: Path) -> Settings:
    """The defaults, changed by the TOML file at ``path`` if it is there.

    Raises:
        BadSetting: it is not TOML, or names a setting that does not exist, or gives one of the wrong type.
    """
    try:
        found = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        return Settings()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"{path} is not a TOML file ({error}): mend that line.") from error
    _refuse_unknown(found, Settings, path, ())
    try:
        return TypeAdapter(Settings).validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise BadSetting(f"The setting {name} in {path} is wrong: {first['msg']}.") from error


def _refuse_unknown(found: dict[str, Any], kind: Any, path: Path, within: tuple[str, ...]) -> None:
    known = typing.get_type_hints(kind)
    for name, value in found.items():
        if name not in known:
            full = ".".join((*within, name))
            raise BadSetting(f"{path} has a setting {full!r} that does not exist: use one of {', '.join(known)}.")
        if dataclasses.is_dataclass(known[name]) and isinstance(value, dict):
            _refuse_unknown(value, known[name], path, (*within, name))
