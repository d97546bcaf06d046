"""Finds misspelt or invalid settings in the environment, and variables that would make libraries crash or hang."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

PREFIX = "CAPSFUSION_"
# Variables with this prefix that are not in Settings, because other code reads them.
OTHER_VARIABLES = {
    "CAPSFUSION_AWS_CONN_ID": "Airflow only: the id of the Connection with the keys and the endpoint for S3.",
    "CAPSFUSION_ALERT_CONN_ID": "Airflow only: the id of the Connection whose password is the URL of a webhook"
    " (Slack, Mattermost, …). The webhook gets a message when a run fails, waits for a person's answer, or takes 24"
    " hours longer than usual, and when the quality gate holds back (does not load) a unit for the first time in a"
    " run.",
    "CAPSFUSION_GPU_POD": "Airflow with KubernetesExecutor only: the file that describes the pods of fuse tasks"
    " ([operations.md](operations.md)).",
    "CAPSFUSION_SCREENSHOTS": "Tests only: the folder for pictures of the captions view.",
}
# Kubernetes adds these variables for each service whose name starts with capsfusion.
_OF_KUBERNETES = re.compile(r".*_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
_EXPECTED = "Input should be "  # how pydantic's messages begin; replaced by "expected"
# Variables that libraries read when they are imported. A wrong value hangs the process (libgomp) or ends it with a
# traceback (NumPy). Each variable has a pattern of the accepted values, and a description of these values for messages.
# Variables of torch are not here, because fusion/torchrun.py explains torch's failures.
_OF_LIBRARIES = {
    "GOMP_CPU_AFFINITY": (re.compile(r"[\s,]*(\d+(-\d+(:\d+)?)?([\s,]+|$))*"), "ids of CPU cores, such as 0-3 or 0,2"),
    "NUMPY_MADVISE_HUGEPAGE": (re.compile(r"\s*[+-]?\d{1,9}\s*"), "0 or 1"),
}
_SECRET = ("warehouse_url",)  # settings whose values must not appear in messages


def variable(*parts: str) -> str:
    """The environment variable of a setting. For a setting in a group, ``parts`` are the group and the setting.

    Example: ("rules", "min_words") → ``CAPSFUSION_RULES__MIN_WORDS``.
    """
    return PREFIX + "__".join(parts).upper()


def nested(settings: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The groups of settings, such as ``rules``: the name of each group and its class."""
    annotated = {name: field.annotation for name, field in settings.model_fields.items()}
    return {name: kind for name, kind in annotated.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}


def variables(settings: type[BaseModel]) -> dict[str, FieldInfo]:
    """Environment variable → pydantic field, for all settings and those in groups, in the order of ``settings``."""
    inner = nested(settings)
    found: dict[str, FieldInfo] = {}
    for name, field in settings.model_fields.items():
        if name in inner:
            found |= {variable(name, part): each for part, each in inner[name].model_fields.items()}
        else:
            found[variable(name)] = field
    return found


def misspelt(environment: Mapping[str, str], settings: type[BaseModel], others: Iterable[str]) -> list[str]:
    """A message for each variable whose name looks like a misspelt setting or a misspelt name of ``others``."""
    groups = [variable(name) for name in nested(settings)]  # one variable can set a whole group as JSON
    known = {*variables(settings), *others, *groups}
    return [
        f"{name} is not a setting: did you mean {nearest}?"
        for name in sorted(name.upper() for name, value in environment.items() if value)
        if name.startswith(PREFIX)
        and name not in known
        # pydantic itself refuses unknown names in a group
        and not name.startswith(tuple(f"{group}__" for group in groups))
        and not _OF_KUBERNETES.fullmatch(name)
        and (nearest := _nearest(name, known))
    ]


def unusable(environment: Mapping[str, str]) -> list[str]:
    """A message for each library variable whose value would make the library crash or hang."""
    return [
        f"{name} is {environment[name]!r:.100}: expected {words}; correct or unset it"
        for name, (accepted, words) in _OF_LIBRARIES.items()
        if name in environment and not accepted.fullmatch(environment[name])
    ]


def problems(error: ValidationError, settings: type[BaseModel], overridden: Collection[str]) -> list[str]:
    """A message for each setting that is not valid.

    ``overridden``: settings whose values come from options or Params. For these, messages name the setting, not its
    environment variable.
    """
    reasons: dict[str, list[str]] = {}
    for each in error.errors():
        parts = [str(part) for part in each["loc"]]
        # If a setting has a union of types, pydantic reports an error for each type. One message joins these errors.
        named = parts[:2] if parts[0] in nested(settings) else parts[:1]
        name = named[0] if named[0] in overridden else variable(*named)
        if each["type"] == "extra_forbidden":
            nearest = _nearest(name, variables(settings))
            reasons[f"{name} is not a setting"] = [f"did you mean {nearest}?" if nearest else "see docs/settings.md"]
        else:
            value = "not valid" if parts[0] in _SECRET else f"{each['input']!r:.100}"
            reasons.setdefault(f"{name} is {value}", []).append(each["msg"].removeprefix("Value error, "))
    return [f"{what}: {_joined(found)}" for what, found in reasons.items()]


def _joined(reasons: list[str]) -> str:
    if not all(reason.startswith(_EXPECTED) for reason in reasons):
        return "; ".join(reasons)
    expected = [re.sub(r"^(?=(greater|less) than)", "a number ", reason.removeprefix(_EXPECTED)) for reason in reasons]
    return f"expected {' or '.join(expected)}"


def _nearest(name: str, known: Iterable[str]) -> str | None:
    """The known variable that is most similar to ``name``. None: no variable is similar."""
    by_rest = {each.removeprefix(PREFIX): each for each in known}
    found = difflib.get_close_matches(name.removeprefix(PREFIX), by_rest, n=1, cutoff=0.7)
    return by_rest[found[0]] if found else None
