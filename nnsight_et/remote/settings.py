"""Where nnsight's own settings of a server come from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from nnsight.schema.config import CONFIG, ApiConfig

VARIABLES = {"HOST": "NDIF_HOST", "APIKEY": "NDIF_API_KEY"}


def origin(setting: Literal["HOST", "APIKEY"]) -> str:
    """What sets the server's address or the key: a variable, nnsight's file, its default; "" if there is no key."""
    value, variable = getattr(CONFIG.API, setting), VARIABLES[setting]
    if not value:
        return ""
    if os.environ.get(variable) == value:
        return variable
    return "nnsight's default" if value == ApiConfig.model_fields[setting].default else str(configuration())


def configuration() -> Path:
    """nnsight's configuration file, whether or not it is there."""
    own = os.environ.get("NNSIGHT_CONFIG")
    folder = Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser()
    return Path(own).expanduser() if own else folder / "nnsight" / "config.yaml"
