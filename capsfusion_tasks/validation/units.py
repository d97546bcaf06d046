"""Validates the captions of a work unit (rows that one GPU task fuses).

Writes the verdicts to ``units/<unit_id>/validated.parquet``.
"""

from __future__ import annotations

import json

import pyarrow as pa

from capsfusion_tasks.schemas import CAPTION, OTHER_BEAMS, PAIRS, Unit, has_beams, validated_schema, with_columns_of
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.beams import best_that_pass
from capsfusion_tasks.validation.rules import DEFAULTS
from capsfusion_tasks.validation.validate import RawsByCaption, validate_table

RULES_VERSION = 2  # increase this number when a changed rule gives other verdicts with the same thresholds
_RULES = "capsfusion.rules"  # key in the Parquet footer, for the thresholds with which the rows were judged
_VERSION = "capsfusion.rules_version"  # key in the Parquet footer, for RULES_VERSION; version 1 has no such key


def validate_unit(
    storage: Storage,
    unit: Unit,
    fused: pa.Table,
    settings: RuleSettings = DEFAULTS,
    loaded: RawsByCaption | None = None,
) -> pa.Table:
    """Judge all captions of ``unit`` and publish ``units/<unit_id>/validated.parquet``, in the order of the pairs.

    ``fused`` has all rows of the unit, in order (``schemas.fused_schema``). If ``fused`` also has the other captions of
    each row's beam search, each row gets its best caption that the rules accept. ``loaded`` looks up captions in the
    warehouse for the rule ``same_caption``. Returns the published table (``schemas.validated_schema``).
    """
    with_beams = has_beams(fused)
    rows = with_columns_of(PAIRS, storage.read_table(layout.unit_pairs(unit.unit_id)))
    for name in [*CAPTION.names, *[OTHER_BEAMS.name] * with_beams]:
        rows = rows.append_column(name, fused[name])
    judge, schema = best_that_pass if with_beams else validate_table, validated_schema(with_beams=with_beams)
    validated = judge(rows, settings=settings, loaded=loaded).select(schema.names).cast(schema)
    judged_with = {_RULES: settings.model_dump_json(), _VERSION: str(RULES_VERSION)}
    storage.write_table(layout.unit_validated(unit.unit_id), validated, judged_with)
    return validated


def different_rules(validated: pa.Table, settings: RuleSettings) -> str:
    """How the rules that judged ``validated`` differ from the current rules with ``settings``. Empty: no difference."""
    noted_at = validated.schema.metadata or {}
    noted, version = noted_at.get(_RULES.encode()), int(noted_at.get(_VERSION.encode(), b"1"))
    if version != RULES_VERSION:
        return f"version {version} of the rules, now version {RULES_VERSION}"
    # Files that older versions of this program wrote do not record the thresholds. Assume that the rows of such a file
    # were judged with the current thresholds.
    then = json.loads(noted) if noted else {}
    now = settings.model_dump(mode="json")
    return ", ".join(
        f"CAPSFUSION_RULES__{name.upper()}={then[name]}, now {now[name]}"
        for name in now
        if name in then and then[name] != now[name]
    )
