"""The base class of all settings: immutable, validated, and explicit about which settings decide results."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from dermatome.errors import BadSetting


class Effect(StrEnum):
    """Marks a setting that does not affect results: ``batch: Annotated[int, Effect.SPEED] = 8``."""

    SPEED = "speed"
    LOOKS = "looks"
    LIMIT = "limit"
    PLATFORM = "platform"


class SettingsModel(BaseModel):
    """A section of the settings.

    A field without an :class:`Effect` decides results: changing it makes the results of its asset stale.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:
        """Checks the values.

        Raises:
            BadSetting: a name is unknown or a value is wrong.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise BadSetting(f"{explain(error, type(self))}.") from error

    # Lets pydantic validate nested sections itself, so that an error names the full path of a setting.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def changed(self, **values: Any) -> Self:
        """Returns a copy of these settings with other values, validated.

        Raises:
            BadSetting: a name is unknown or a value is wrong.
        """
        return type(self)(**(dict(self) | values))

    def deciding(self) -> dict[str, Any]:
        """The settings that decide results, as plain values."""
        found: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            if not any(isinstance(mark, Effect) for mark in field.metadata):
                value = getattr(self, name)
                found[name] = value.deciding() if isinstance(value, SettingsModel) else value
        return found


def explain(error: ValidationError, model: type[SettingsModel]) -> str:
    """The first mistake in one sentence, without its full stop."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section: Any = model
        for part in first["loc"][:-1]:
            section = section.model_fields[part].annotation
        return f"there is no setting {name!r}; use one of {', '.join(section.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    where = f"the setting {name} is {first['input']!r}: " if first["loc"] and first["type"] != "value_error" else ""
    return f"{where}{message[:1].lower()}{message[1:]}"
