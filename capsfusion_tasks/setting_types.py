"""Types for settings that need parsing: lists of patterns, folders, addresses, models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from capsfusion_tasks.locations import absolute_location, absolute_model, absolute_path


def _split_patterns(value: Any) -> Any:
    """Split a comma-separated or JSON list. Does not split at commas inside braces, as in ``{a,b}``."""
    if not isinstance(value, str):
        return value
    if not re.match(r'\s*\[\s*["\]]', value):  # not JSON: a pattern may also begin with [, as in [0-9]*.parquet
        return _split_at_commas(value)
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(
            f"it starts with [ and is not a JSON list ({error}); give a JSON list, or patterns separated by commas"
        ) from error


def _split_at_commas(value: str) -> list[str]:
    patterns: list[str] = []
    for part in value.split(","):
        if patterns and patterns[-1].count("{") > patterns[-1].count("}"):
            patterns[-1] += f",{part}"
        else:
            patterns.append(part)
    return [pattern.strip() for pattern in patterns if pattern.strip()]


def _stripped(value: Any) -> Any:
    """Text without surrounding spaces and line breaks.

    A secret that was read from a file often ends with a line break.
    """
    return value.strip() if isinstance(value, str) else value


def _absolute_or_none(location: str) -> str:
    return location if location == "none" else absolute_location(location)


def _table_name(name: str) -> str:
    if not re.fullmatch(r"[\w-]+(\.[\w-]+)+", name):
        raise ValueError(
            "expected namespace.table, such as captions.fused; each part may contain letters, digits, _ and -"
        )
    return name


def _not_empty(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value():
        raise ValueError("it is empty; give a value, or unset the variable to use the default")
    return secret


Secret = Annotated[SecretStr, AfterValidator(_not_empty), BeforeValidator(_stripped)]
TableName = Annotated[str, AfterValidator(_table_name), BeforeValidator(_stripped)]
# NoDecode, because pydantic-settings would otherwise accept only JSON.
Patterns = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_patterns)]
Folder = Annotated[Path, BeforeValidator(absolute_path), BeforeValidator(_stripped)]
Location = Annotated[str, AfterValidator(absolute_location), BeforeValidator(_stripped)]
RawLocation = Annotated[str, AfterValidator(_absolute_or_none), BeforeValidator(_stripped)]
ModelLocation = Annotated[str, AfterValidator(absolute_model), BeforeValidator(_stripped)]
