"""All settings: defaults in code, changes in `settings.toml` of the data root. The platform and the web app read it.

The model of each stage's settings is in the stage's folder; this module combines them.
"""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import available_timezones

from pydantic import Field, StringConstraints, ValidationError, field_validator

from dermatome.errors import BadSetting
from dermatome.hpa.settings import HpaSettings
from dermatome.inference.compute import ComputeSettings
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.nuclei.patches.settings import PatchSettings
from dermatome.nuclei.til.settings import TilSettings
from dermatome.pipeline.batch import BatchSettings
from dermatome.registry.promotion import PromotionSettings
from dermatome.skin.agreement.settings import AgreementSettings
from dermatome.skin.atlas.settings import AtlasSettings
from dermatome.skin.cells.settings import CellSettings
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.profiles.settings import ProfileSettings
from dermatome.skin.queue.settings import QueueSettings
from dermatome.skin.tissue.settings import TissueSettings
from dermatome.slides.settings import NucleiImageSettings, SkinImageSettings
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import read_record
from dermatome.storage.settings_model import Effect, SettingsModel, explain

_Owner = Annotated[str, StringConstraints(pattern=r"^(team:\w+|[^@\s]+@[^@\s]+\.\w+)$")]

_Site = Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.:\[\]-]+(/[\w./-]*[\w.-])?$")]


class PlatformSettings(SettingsModel):
    """Settings of what Dagster shows, and of when it runs things.

    Attributes:
        time_zone: time zone of the schedules, such as ``America/Los_Angeles``.
        owners: owners of each asset: e-mail addresses, or names of teams with the prefix ``team:``.
        dagster_url: address of Dagster's web server for browsers; the atlas links to its partitions.
        web_url: address of the web app for browsers; Dagster's results link to its atlas.
    """

    time_zone: Annotated[str, Effect.PLATFORM] = "UTC"
    owners: Annotated[tuple[_Owner, ...], Effect.PLATFORM] = ()
    dagster_url: Annotated[_Site, Effect.PLATFORM] = "http://127.0.0.1:3000"
    web_url: Annotated[_Site, Effect.PLATFORM] = "http://127.0.0.1:7860"

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in available_timezones():
            raise ValueError(f"the time_zone is {name!r}: give a name of the IANA database, such as Europe/Berlin")
        return name


class Settings(SettingsModel):
    """Every section of the settings file.

    Attributes:
        cell_weights: the network that finds cells until there is a `cell_champion`: ``cyto2``, ``toy`` or the path of a
            weights file.
        nuclei_weights: the network that finds nuclei: a training version, the path of a weights file or ``toy``; empty
            takes the newest version.
        nuclei_opacity: opacity of the classes drawn over the slide.
        figures: draw `figure.png` and a preview of each slide's masks, cells, layers, nuclei and TIL scores. Set it to
            false for thousands of slides that nobody looks at one by one: the atlas draws a slide when it is opened.
    """

    images: SkinImageSettings = SkinImageSettings()
    compute: ComputeSettings = ComputeSettings()
    batch: BatchSettings = BatchSettings()
    hpa: HpaSettings = HpaSettings()
    tissue: TissueSettings = TissueSettings()
    cells: CellSettings = CellSettings()
    layers: LayerSettings = LayerSettings()
    profiles: ProfileSettings = ProfileSettings()
    atlas: AtlasSettings = AtlasSettings()
    agreement: AgreementSettings = AgreementSettings()
    queue: QueueSettings = QueueSettings()
    promotion: PromotionSettings = PromotionSettings()
    nuclei_images: NucleiImageSettings = NucleiImageSettings()
    nuclei_patches: PatchSettings = PatchSettings()
    nuclei: NucleusSettings = NucleusSettings()
    til: TilSettings = TilSettings()
    platform: PlatformSettings = PlatformSettings()
    cell_weights: str = "cyto2"
    nuclei_weights: str = ""
    nuclei_opacity: Annotated[float, Effect.LOOKS] = Field(default=0.45, ge=0, le=1)
    figures: Annotated[bool, Effect.LOOKS] = True


def load_settings(path: Path) -> Settings:
    """Returns the default settings, changed by the TOML file at ``path`` if it exists.

    Raises:
        BadSetting: the file cannot be read, is not TOML, names a setting that does not exist, or gives one a wrong
            value.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise BadSetting(f"{path} cannot be read ({error.strerror}): make it a text file of settings.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"{path} is not a TOML file ({error}): fix that line.") from error
    try:
        return Settings.model_validate(found)
    except ValidationError as error:
        raise BadSetting(f"In {path}, {explain(error, Settings)}.") from error


def deciding_settings(settings: Settings, names: Iterable[str], root: DataRoot) -> dict[str, Any]:
    """The values of the settings that decide an asset's results.

    Args:
        settings: all settings.
        names: names of sections or single settings, such as ``cells``, ``compute.precision`` or ``cell_weights unless
            cell_champion``; the last form counts only until the asset after ``unless`` has chosen a version.
        root: the data root.

    Returns:
        The values by name; for a section, only those settings that decide results.

    Raises:
        AttributeError: there is no such setting.
    """
    found: dict[str, Any] = {}
    for name in names:
        name, _, champion = name.partition(" unless ")
        if champion and _has_champion(root, champion):
            continue
        value: Any = settings
        for part in name.split("."):
            value = getattr(value, part)
        found[name] = value.deciding() if isinstance(value, SettingsModel) else value
    return found


def _has_champion(root: DataRoot, asset: str) -> bool:
    record = read_record(root.record(asset, CHAMPION))
    return record is not None and record.values["version"] != "settings"
