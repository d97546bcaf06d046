"""Reads the captions of an export as one ordered stream.

If an export was interrupted, its next attempt reads the same work units (rows that one GPU task fused).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, LiteralString

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
from psycopg import sql
from sqlalchemy.dialects.postgresql import UUID

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.warehouse.adbc_session import WITHOUT_COPY, adbc_session, message, quotes_advice, stream
from capsfusion_tasks.warehouse.caption_tables import fused_captions
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.export_condition import refuse_changing
from capsfusion_tasks.warehouse.export_selection import Outcome, Selection, Snapshot
from capsfusion_tasks.warehouse.locks import lock_sql
from capsfusion_tasks.warehouse.provenance import PROVENANCE, Origin, by_origin, release_names
from capsfusion_tasks.warehouse.readable import condition_sql
from capsfusion_tasks.warehouse.schema import SCHEMA

KEY, FUSION = "_pair_id", "_fusion_id"  # columns that each stream of captions has after the selected columns

_SOURCE = "instead of {0}_source, write {0}_shard in (select shard_id from shards where source = '…')"
_INSTEAD = {  # column that --where cannot use → what to write instead
    "laion_2b_source": _SOURCE.format("laion_2b"),
    "laion_coco_source": _SOURCE.format("laion_coco"),
    "capsfusion_model": "instead of capsfusion_model, write fusion_id in (select fusion_id from fusions"
    " where model = '…')",
}
_ITS_UNITS = sql.SQL("(/* the units of the snapshot */)")  # the manifest shows this instead of the list of units


class ExportSession:
    """A read-only transaction that sees one state of the warehouse."""

    def __init__(self, warehouse: Warehouse, connection: Any) -> None:
        self._warehouse, self._connection = warehouse, connection

    def resolve(self, selection: Selection) -> Selection:
        """``selection`` with its filter converted to SQL for the current state of the ledger.

        Raises UnclearFilter if a part of a name in the filter matches too many shards or runs.
        """
        if selection.filter is None:
            return selection
        with self._warehouse.engine.connect() as connection:
            where = condition_sql(connection, selection.filter, fused_captions.alias("captions"))
        return selection.model_copy(update={"where": where})

    def freeze(self, selection: Selection) -> Snapshot:
        """The current state of the warehouse, for the units that ``selection`` covers.

        Raises InputError for an unknown fusion_id, unless ``selection`` has an interval.
        """
        asked = [sql.SQL("state = 'loaded'"), *_if(selection.fusion_id, "fusion_id = {}")]
        if selection.interval is not None:
            asked += _if(selection.interval.start, "interval_start = {}")
            asked += _if(selection.interval.end, "interval_end = {}")
        units = self._rows(
            sql.SQL(
                "select unit_id, fusion_id, accepted, superseded, superseded_accepted from work_units where {}"
                " order by unit_id"
            ).format(sql.SQL(" and ").join(asked))
        )
        known = self._rows(
            "select fusion_id, model, model_revision, engine, dtype, num_beams, max_new_tokens from fusions order by 1"
        )
        is_known = selection.fusion_id in (None, *(fusion["fusion_id"] for fusion in known))
        # With an interval, accept an unknown fusion_id: the ledger may lack it if planning found no pairs to fuse.
        if not is_known and selection.interval is None:
            names = ", ".join(f"{fusion['fusion_id']} ({fusion['model']})" for fusion in known) or "none"
            raise InputError(f"the warehouse has no fusion {selection.fusion_id}; it has {names}")
        used = {unit["fusion_id"] for unit in units}
        return Snapshot(
            at=self._rows("select now() as at")[0]["at"],
            units=tuple(unit["unit_id"] for unit in units),
            accepted=sum(unit["accepted"] for unit in units),
            superseded=sum(unit["superseded"] for unit in units),
            superseded_accepted=sum(unit["superseded_accepted"] for unit in units),
            fusions={fusion.pop("fusion_id"): fusion for fusion in known if fusion["fusion_id"] in used},
            releases=self.releases(),
        )

    def sources(self) -> dict[str, str]:
        """MD5 of a source's address → the address, for all sources of shards (folders, lists of files, data sets)."""
        found = self._rows(
            "select distinct md5(source) as digest, source from shards where side in ('laion_2b', 'laion_coco')"
            " order by source"
        )
        return {row["digest"]: row["source"] for row in found}

    def releases(self) -> dict[str, str]:
        """MD5 of a source's address → public name of the release (data set) at this address."""
        sources = self.sources()
        names = release_names(sources.values())
        return {digest: names[source] for digest, source in sources.items()}

    def is_unchanged(self, snapshot: Snapshot) -> bool:
        """Whether the warehouse still has all captions of ``snapshot``."""
        name, replaced = snapshot.replaced
        [found] = self._rows(
            sql.SQL(
                "select count(*) as units, coalesce(sum(accepted), 0)::bigint as accepted,"
                " coalesce(sum({}), 0)::bigint as replaced from work_units where state = 'loaded' and unit_id in {}"
            ).format(sql.Identifier(name), _units(snapshot))
        )
        return found == {"units": len(snapshot.units), "accepted": snapshot.accepted, "replaced": replaced}

    def outcome(self, snapshot: Snapshot) -> Outcome:
        """The numbers of accepted and rejected captions in the units of ``snapshot``, and the reasons of rejections.

        Counts the stored captions, because the ledger's counts of a unit still include captions that were replaced or
        replayed.
        """
        [counts] = self._rows(
            sql.SQL(
                "select (select count(*) from fused_captions where unit_id in {0}) as accepted,"
                " (select count(*) from rejected_captions where unit_id in {0}) as rejected"
            ).format(_units(snapshot))
        )
        reasons = self._rows(
            sql.SQL(
                "select reason, count(*) as captions from rejected_captions, unnest(reasons) reason where unit_id in {}"
                " group by reason order by captions desc, reason"
            ).format(_units(snapshot))
        )
        return Outcome(**counts, reasons={row["reason"]: row["captions"] for row in reasons})

    def origins(self, selection: Selection, snapshot: Snapshot) -> list[Origin]:
        """Releases and licences of the captions that the method ``captions`` streams, the most frequent first."""
        origin = ("laion_2b_shard", "laion_coco_shard", "license")
        chosen = captions_query(
            selection.model_copy(update={"columns": origin}),
            several=len(snapshot.fusions) > 1,
            releases=snapshot.releases,
            units=_units(snapshot),
            limit=selection.limit,
        )
        # Count by shard first, so that the sources are looked up once per group and not once per caption.
        counted = sql.SQL(
            "select laion_2b_shard, laion_coco_shard, license, count(*) as captions from ({}) chosen group by 1, 2, 3"
        ).format(chosen)
        sources = sql.SQL(", ").join(
            _column(name, snapshot.releases) for name in ("laion_2b_source", "laion_coco_source")
        )
        named = sql.SQL("select {}, license, captions from ({}) counted order by 1, 2, 3").format(sources, counted)
        return by_origin(self._rows(named))

    def check_where(self, condition: str) -> None:
        """Raise InputError unless ``condition`` is one boolean expression on the columns of a caption.

        Also raises InputError if the value of the expression may change before an interrupted export is resumed.
        """
        if not condition.strip():
            raise InputError("--where is empty: give a condition, or leave this option out")
        # The query has the condition twice: once in [] and once in (). A condition that closes one of the brackets
        # early, to add other SQL, is a syntax error inside the other bracket.
        checked = sql.SQL("explain (verbose, costs off) select array[{0}\n] from fused_captions captions where ({0}\n)")
        try:
            plan = self._column(checked.format(_raw(condition)))
        except adbc.Error as error:
            said = message(error)
            if "]" not in condition:
                said = said.replace('at or near "]"', "at the end of the condition")
            if found := re.search(rf'column "?(captions\.)?({"|".join(_INSTEAD)})"? does not exist', said):
                raise InputError(f"--where can use only the columns of fused_captions: {_INSTEAD[found[2]]}") from error
            raise InputError(
                f"--where is not a condition on a caption: {said}{quotes_advice(condition, said)}"
            ) from error
        refuse_changing(condition, "\n".join(plan), self._column)

    @contextmanager
    def captions(
        self, selection: Selection, snapshot: Snapshot, *, after: str | None, limit: int | None
    ) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        """At most ``limit`` captions in the order of ``pair_id``, starting after the pair_id ``after``.

        Yields the schema and a stream of batches of some megabytes. The columns are those of ``selection``, then KEY
        and FUSION as text.
        """
        statement = captions_query(
            selection,
            several=len(snapshot.fusions) > 1,
            releases=snapshot.releases,
            units=_units(snapshot),
            after=after,
            limit=limit,
            with_key=True,
        )
        # Use COPY, the driver's default. Without it, the driver would keep the whole result in memory.
        with self._connection.cursor() as cursor:
            yield stream(self._warehouse, self._connection, cursor, statement.as_string())

    def _column(self, statement: str | sql.Composed) -> list[str]:
        return [value for row in self._rows(statement) for value in row.values()]

    def _rows(self, statement: str | sql.Composed) -> list[dict[str, Any]]:
        text = statement if isinstance(statement, str) else statement.as_string()
        with self._connection.cursor(adbc_stmt_kwargs=WITHOUT_COPY) as cursor:
            cursor.execute(text)
            rows: list[dict[str, Any]] = cursor.fetch_arrow_table().to_pylist()
            return rows


@contextmanager
def export_session(warehouse: Warehouse, target: str) -> Iterator[ExportSession]:
    """A session for an export to ``target``. Raises NotReadyError while another process exports to it."""
    with adbc_session(warehouse, read_only=True) as connection:
        with connection.cursor(adbc_stmt_kwargs=WITHOUT_COPY) as cursor:
            cursor.execute(f"set local search_path = {SCHEMA}, public")
            cursor.execute(f"select pg_try_advisory_xact_lock({lock_sql('export')})", (target,))
            [locked] = cursor.fetchone()
        if not locked:
            raise NotReadyError(
                f"another export to {target} is running, or the query of a killed export still runs; try again later"
            )
        yield ExportSession(warehouse, connection)


def captions_query(
    selection: Selection,
    *,
    several: bool,
    releases: Mapping[str, str],
    units: sql.Composable = _ITS_UNITS,
    after: str | None = None,
    limit: int | None = None,
    with_key: bool = False,
) -> sql.Composed:
    """The query of an export. Without ``units``, it is the query that users see in the manifest.

    ``several``: whether a pair may have captions of several fusions; if so, the query selects each pair's newest one.
    ``releases``: see ``Snapshot.releases``. ``with_key``: add the columns KEY and FUSION.
    """
    newest = several and ("distinct on (pair_id) ", " order by pair_id, loaded_at desc, fusion_id desc")
    distinct, order = newest or ("", "")
    columns = [_column(name, releases) for name in selection.columns]
    if with_key:
        columns += [sql.SQL("pair_id::text as {}").format(sql.Identifier(KEY)), _as("fusion_id", FUSION)]
    seen = [sql.SQL("unit_id in {}").format(units), *_if(after, "pair_id > {}::uuid")]
    asked = [*_if(selection.loaded_from, "loaded_at >= {}"), *_if(selection.loaded_before, "loaded_at < {}")]
    if selection.where is not None:
        asked.append(sql.SQL("({}\n)").format(_raw(selection.where)))
    return sql.SQL(
        "select {}\nfrom (select {}* from fused_captions where {}{}) captions\n{}order by captions.pair_id{}"
    ).format(
        sql.SQL(", ").join(columns),
        _raw(distinct),
        sql.SQL(" and ").join(seen),
        _raw(order),
        sql.SQL("where {}\n").format(sql.SQL(" and ").join(asked)) if asked else sql.SQL(""),
        sql.SQL("").join(_if(limit, " limit {}")),
    )


def _column(name: str, releases: Mapping[str, str]) -> sql.Composable:
    """SQL for the column ``name``. Casts a uuid to text, because the exported files have it as text."""
    if name in PROVENANCE:
        names = sql.Literal(json.dumps(releases, ensure_ascii=False))
        return sql.SQL("{} as {}").format(sql.SQL(PROVENANCE[name]).format(releases=names), sql.Identifier(name))
    is_uuid = isinstance(fused_captions.columns[name].type, UUID)
    return sql.SQL("{0}::text as {0}" if is_uuid else "{0}").format(sql.Identifier(name))


def _as(column: str, name: str) -> sql.Composable:
    return sql.SQL("{} as {}").format(sql.Identifier(column), sql.Identifier(name))


def _units(snapshot: Snapshot) -> sql.Composable:
    return sql.SQL("(select unnest(string_to_array({}, ',')))").format(sql.Literal(",".join(snapshot.units)))


def _if(value: Any, condition: LiteralString) -> list[sql.Composable]:
    """``condition`` with ``value`` filled in. Empty if the value is None."""
    return [] if value is None else [sql.SQL(condition).format(sql.Literal(value))]


def _raw(text: str) -> sql.SQL:
    """``text`` as SQL, without quotes.

    A user's condition is safe here, because ``check_where`` tests the condition, and the session is read-only.
    """
    return sql.SQL(text)
