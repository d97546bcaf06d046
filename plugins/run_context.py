"""What an Airflow run says about the work: its settings (Params over the environment), its data interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.settings import Interval, Settings, load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context


def settings_of(context: Context) -> Settings:
    params = context["params"]
    return load_settings(model=params["model"], num_beams=params["num_beams"])


def interval_of(context: Context) -> Interval:
    """The run's data interval; a run triggered without a logical date has none."""
    start, end = context.get("data_interval_start"), context.get("data_interval_end")
    if start is None or end is None:
        raise InputError(
            f"run {context['run_id']} has no data interval, so no shard belongs to it: "
            "trigger it with a logical date, or backfill the days"
        )
    return Interval(start=start, end=end)


def set_label(context: Context, label: str) -> None:
    """What the UI shows for a mapped task instead of its index (``map_index_template="{{ label }}"``)."""
    context["label"] = label  # type: ignore[typeddict-unknown-key]
