"""Reads what a task needs from Airflow: Params, the Connection for S3, and the run's interval or replay.

``context`` is Airflow's context of a task. ``work`` is the pipeline's own context: settings, staging area, warehouse.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.decoding import KNOBS
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

    from capsfusion_tasks.context import Context as PipelineContext
    from capsfusion_tasks.schemas import Replay


# Params that override the settings of the same names.
DECODING = ("model", "dtype", "prompt", *KNOBS)
LONGEST_LABEL = 50  # number of characters that the UI's lists of tasks show
FUSION_KEY = "fusion_id"  # key of an XCom of the plan task: the fusion_id (model and settings) of its units


@contextmanager
def planning(context: Context) -> Iterator[PipelineContext]:
    """The pipeline's context for a task that decides how (with which model) to fuse. Params override the settings.

    If no Param in ``DECODING`` is set and the run has units that are not loaded, uses the decoding settings of these
    units. This is necessary because a backfill that reruns the run clears the Params, but must continue the run's
    units.
    """
    from capsfusion_tasks.context import open_context
    from capsfusion_tasks.warehouse import ledger

    params = params_of(context)
    use_aws_connection()
    chosen = {name: params[name] for name in DECODING if params.get(name) is not None}
    with open_context(load_settings(**chosen)) as work:
        if not chosen:
            with work.warehouse.engine.connect() as connection:
                work = replace(work, fusion_id=ledger.unfinished_fusion(connection, context["run_id"]))
        yield work


@contextmanager
def working() -> Iterator[PipelineContext]:
    """The pipeline's context for a task that does not decide how to fuse.

    If such a task needs the decoding settings of a unit, it reads them from the ledger.
    """
    from capsfusion_tasks.context import open_context

    use_aws_connection()
    with open_context(load_settings()) as work:
        yield work


def params_of(context: Context) -> dict[str, Any]:
    """The run's Params. Raises InputError if the run was given a Param that its DAG does not have.

    Airflow accepts Params of any name. Without this check, a run would ignore a misspelt ``limit``, and fuse all pairs.
    """
    dag, params = context["dag"], context["params"]
    if unknown := sorted(params.keys() - set(dag.params)):
        raise InputError(
            f"the DAG {dag.dag_id} has no Param {', '.join(_corrected(name, dag.params) for name in unknown)}; it has"
            f" {', '.join(sorted(dag.params))}. Trigger the run again with the right names"
        )
    return params


def _corrected(name: str, known: Iterable[str]) -> str:
    """An unknown name, with the most similar known name if there is one."""
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"{name:.100} (did you mean {nearest[0]}?)" if nearest else f"{name:.100}"


def planned_fusion(context: Context) -> str | None:
    """The fusion_id of the run's plan. None if the plan task failed before it had a fusion_id."""
    found: str | None = context["ti"].xcom_pull(task_ids="plan", key=FUSION_KEY)
    return found


def planned_units(context: Context) -> list[str]:
    """Ids of the units of the run's plan. Empty if there is no plan."""
    units: list[dict[str, Any]] | None = context["ti"].xcom_pull(task_ids="plan")
    return [unit["unit_id"] for unit in units or []]


def use_aws_connection() -> None:
    """Give this task's process the keys and the endpoint of the Connection that CAPSFUSION_AWS_CONN_ID names.

    Sets AWS's own environment variables, because boto3, Arrow and child processes all read these.
    """
    conn_id = os.environ.get("CAPSFUSION_AWS_CONN_ID")
    if not conn_id:
        return
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = Connection.get(conn_id)
    except AirflowNotFoundException as error:
        raise InputError(
            f"CAPSFUSION_AWS_CONN_ID: there is no Connection {conn_id}; create it under Admin → Connections"
        ) from error
    extra = connection.extra_dejson
    known = {
        "aws_session_token": "AWS_SESSION_TOKEN",
        "region_name": "AWS_DEFAULT_REGION",
        "endpoint_url": "AWS_ENDPOINT_URL",
    }
    if unknown := sorted(extra.keys() - known):
        raise InputError(
            f"Connection {conn_id} has unknown fields in its extra: remove {', '.join(unknown)}. Allowed are"
            f" {', '.join(known)}"
        )
    values = {"AWS_ACCESS_KEY_ID": connection.login, "AWS_SECRET_ACCESS_KEY": connection.password}
    values |= {variable: extra.get(name) for name, variable in known.items()}
    # Remove variables that belong to other access keys, or that have priority over the Connection's values.
    foreign = ["AWS_SESSION_TOKEN", "AWS_PROFILE"] if connection.login else []
    foreign += ["AWS_ENDPOINT_URL_S3"] if extra.get("endpoint_url") else []
    for name in foreign:
        os.environ.pop(name, None)
    os.environ.update({name: str(value) for name, value in values.items() if value})


def interval_of(context: Context) -> Interval:
    """The interval of the Param ``day``, or the run's data interval.

    Raises InputError if the run has neither, or if its logical date is that of another interval's run.
    """
    _require_own_place(context)
    if day := context["params"].get("day"):
        if (kind := context["dag_run"].run_type) in ("backfill", "scheduled"):
            raise InputError(f"the Param day is {day}, but a run of type {kind} has its own dates: leave day empty")
        return utc_day(day)
    start, end = context.get("data_interval_start"), context.get("data_interval_end")
    if start is None or end is None:
        raise InputError(
            f"run {context['run_id']} has no data interval, so no shard belongs to it: "
            "trigger a run with the Param day, or backfill the days"
        )
    return Interval(start=start, end=end)


def _require_own_place(context: Context) -> None:
    """Raise InputError if the run's logical date is that of another interval's run.

    Airflow has one run for each logical date. The scheduler and a backfill would take this run for the run of the other
    interval, so no run would read that interval's shards. If a backfill reruns this run, the run's type changes. But
    its dates do not change, so the run is refused again.
    """
    logical, start = context.get("logical_date"), context.get("data_interval_start")
    if logical is None or start is None:
        return
    # The data interval of a manual run is the last one that has ended by the logical date. The logical date of all
    # other runs is the start of their data interval.
    manual = context["dag_run"].run_type == "manual"
    if logical == context.get("data_interval_end") if manual else logical != start:
        raise InputError(
            f"run {context['run_id']} has the logical date {logical:%Y-%m-%d %H:%M}, which belongs to the run of the"
            f" interval that starts then, but this run's own interval starts at {start:%Y-%m-%d %H:%M}. Airflow has one"
            " run for each logical date, so that interval would never run. Delete this run. For a single day, trigger a"
            " run with the Param day, and leave the logical date as it is"
        )


def utc_day(day: str) -> Interval:
    """The interval of a whole day (UTC), given as ``2026-11-10``."""
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return Interval(start=start, end=start + timedelta(days=1))


def told(interval: Interval) -> str:
    """The interval as text. A whole day is shown as its date."""
    if interval == utc_day(f"{interval.start:%Y-%m-%d}"):
        return f"interval: {interval.start:%Y-%m-%d}, the whole day (UTC)"
    return f"interval: {interval.start:%Y-%m-%d %H:%M} to {interval.end:%Y-%m-%d %H:%M} (UTC)"


def told_params(context: Context) -> str:
    """The Params of the run that differ from their defaults, or that the DAG does not have."""
    usual = context["dag"].params
    given = context["params"].items()
    chosen = [f"{name} {value}" for name, value in given if name not in usual or value != usual[name]]
    return f"Params: {', '.join(chosen) or 'all at their defaults'}"


def replay_of(context: Context, fusion_id: str) -> Replay:
    """The replay of this run. Its name is the run's id. The Params select the rejected captions of ``fusion_id``."""
    from capsfusion_tasks.schemas import Replay

    params = params_of(context)
    return Replay(
        name=context["run_id"],
        fusion_id=fusion_id,
        reasons=tuple(params["reason"] or ()),
        loaded_from=params["start"],
        loaded_before=params["end"],
        limit=params["limit"],
        filter=CaptionFilter.of_param(params["filter"]),
    )


def set_label(context: Context, label: str) -> None:
    """Set the label that the UI shows for a mapped task in place of its index (``map_index_template="{{ label }}"``).

    Cuts a long label in the middle, because names of shards begin with a number and end with a digest.
    """
    if len(label) > LONGEST_LABEL:
        label = f"{label[: LONGEST_LABEL - 9]}…{label[-8:]}"
    context["label"] = label  # type: ignore[typeddict-unknown-key]
