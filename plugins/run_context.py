"""What Airflow says about the work: settings (Params over the environment), S3's Connection, interval or replay."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.identity import identify
from capsfusion_tasks.schemas import Replay
from capsfusion_tasks.settings import Interval, Settings, load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context


# Params that go before the settings of the same name, where a DAG has them.
DECODING = ("model", "num_beams", "max_new_tokens", "dtype")


def settings_of(context: Context) -> Settings:
    use_aws_connection()
    params = context["params"]
    return load_settings(**{name: params[name] for name in DECODING if name in params})


def use_aws_connection() -> None:
    """Give this task's process the keys and the endpoint of the Connection that CAPSFUSION_AWS_CONN_ID names.

    As AWS's own variables, because that is where boto3, Arrow and the processes that a task starts all look.
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
            f"no Connection {conn_id}, which CAPSFUSION_AWS_CONN_ID names: create it under Admin → Connections"
        ) from error
    extra = connection.extra_dejson
    known = {
        "aws_session_token": "AWS_SESSION_TOKEN",
        "region_name": "AWS_DEFAULT_REGION",
        "endpoint_url": "AWS_ENDPOINT_URL",
    }
    if unknown := sorted(extra.keys() - known):
        raise InputError(
            f"Connection {conn_id} has {', '.join(unknown)} in its extra: only {', '.join(known)} are used"
        )
    values = {"AWS_ACCESS_KEY_ID": connection.login, "AWS_SECRET_ACCESS_KEY": connection.password}
    values |= {variable: extra.get(name) for name, variable in known.items()}
    os.environ.update({name: str(value) for name, value in values.items() if value})


def interval_of(context: Context) -> Interval:
    """The run's data interval; a run triggered without a logical date has none."""
    start, end = context.get("data_interval_start"), context.get("data_interval_end")
    if start is None or end is None:
        raise InputError(
            f"run {context['run_id']} has no data interval, so no shard belongs to it: "
            "trigger it with a logical date, or backfill the days"
        )
    return Interval(start=start, end=end)


def replay_of(context: Context) -> Replay:
    """What the run's Params select, under the run's name. Whose rejections, where they do not say: the daily runs'."""
    use_aws_connection()
    params = context["params"]
    return Replay(
        name=context["run_id"],
        fusion_id=params["fusion_id"] or identify(load_settings()).fusion_id,
        reasons=tuple(params["reason"] or ()),
        loaded_from=params["start"],
        loaded_before=params["end"],
        limit=params["limit"],
    )


def set_label(context: Context, label: str) -> None:
    """What the UI shows for a mapped task instead of its index (``map_index_template="{{ label }}"``)."""
    context["label"] = label  # type: ignore[typeddict-unknown-key]
