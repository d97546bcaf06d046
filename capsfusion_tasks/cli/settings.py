"""The command ``capsfusion settings``: prints all settings with their values, or the page docs/settings.md."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.errors import printable
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.variables import OTHER_VARIABLES, variables

# Variable → the heading that docs/settings.md has above this variable.
_PARTS = {
    "CAPSFUSION_HOME": "State",
    "CAPSFUSION_LAION2B": "Sources",
    "CAPSFUSION_BUCKETS": "Pairing and planning",
    "CAPSFUSION_MODEL": "Fusing",
    "CAPSFUSION_RULES__MIN_WORDS": "Rules: when a caption is rejected",
    "CAPSFUSION_GATE__REJECTED_MAX": "Gate: when a unit is not loaded",
}
_INTRODUCTION = """\
# Settings

<!-- Written by `make docs` from capsfusion_tasks/settings.py and thresholds.py. Change the descriptions there. -->

## How do I change a setting?

Set its environment variable. Variables are read when a command or a task starts; an empty variable means the default.
Options of a command and Params of a DAG run override variables: `capsfusion COMMAND --help` lists the options.

`capsfusion settings` prints all values. A variable whose name looks like a misspelt setting is an error. Relative paths
start in the folder where the command runs, and `~` is your home folder.
"""


def settings(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print defaults and meanings of all settings as a Markdown page.")
    ] = False,
) -> None:
    """Print all settings with their values. Passwords are hidden.

    Example: capsfusion settings | grep CAPSFUSION_LAION
    """
    if markdown:
        print(settings_page(), end="")
        return
    current = load_settings()
    for name in variables(Settings):
        value: Any = current
        for part in name.removeprefix("CAPSFUSION_").lower().split("__"):
            value = getattr(value, part)
        print(printable(f"{name}={_text(value)}"))


def settings_page() -> str:
    """The text of docs/settings.md."""
    page = _INTRODUCTION
    for name, field in variables(Settings).items():
        if name in _PARTS:
            page += _heading(_PARTS[name])
        page += _row(name, _default(field), field.description or "")
    page += _heading("Variables of Airflow and of tests")
    return page + "".join(_row(name, "", meaning) for name, meaning in OTHER_VARIABLES.items())


def _heading(title: str) -> str:
    return f"\n## {title}\n\n| variable | default | meaning |\n| --- | --- | --- |\n"


def _row(name: str, default: str, meaning: str) -> str:
    return f"| `{name}` | {default} | {meaning} |\n"


def _default(field: FieldInfo) -> str:
    """A setting's default in Markdown. Empty for None, () and the demo model: the description explains these."""
    if field.default in (None, str(BUNDLED_MODEL), ()):
        return ""
    return f"`{_text(field.default)}`"


def _text(value: Any) -> str:
    """A setting's ``value`` in the form of an environment variable. Hides passwords."""
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, SecretStr):
        return "**********"
    return "" if value is None else str(value)
