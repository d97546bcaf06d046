"""Tests the metrics' names and figures, the page that lists the metrics, and the dashboard that shows them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from capsfusion_tasks.fusion.figures import Figures
from capsfusion_tasks.schemas import Unit
from capsfusion_tasks.tasks import metrics
from capsfusion_tasks.tasks.metrics import METRICS, REASON
from capsfusion_tasks.validation.rules import REASONS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "monitoring.md"
DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"
COUNTS = {"accepted": 3, "rejected": 2, "rescued": 1, "reasons": {"truncated": 2}, "held": False}


def test_each_figure_has_a_known_name_and_its_value() -> None:
    figures = Figures(rows=6, prompt_tokens=600, caption_tokens=60, device_seconds=1.5, busy=3, slots=4).as_dict()
    samples = {
        **metrics.pulled({"rows": 9, "dropped": {"unsafe": 2, "null_url": 1}}),
        **metrics.paired({"pairs": 5}),
        **metrics.planned([Unit(unit_id=name, fusion_id="f", rows=3, tokens=9) for name in "ab"]),
        **metrics.fused(figures),
        **metrics.validated({**COUNTS, "already_loaded": False}),
        **metrics.loaded({"accepted": 3, "rejected": 2, "already_loaded": False}),
    }
    assert samples["capsfusion.pull.dropped"] == 3
    assert samples["capsfusion.plan.rows"] == 6
    assert samples["capsfusion.fuse.device_time"] == 1500
    assert samples["capsfusion.fuse.rows_per_second"] == 4
    assert samples["capsfusion.validate.rejected.truncated"] == 2
    assert samples["capsfusion.load.rows"] == 5
    assert {metrics.kind_of(name) for name in samples} == {"counter", "gauge", "timer"}


def test_a_unit_that_was_loaded_before_counts_nothing() -> None:
    assert metrics.validated({**COUNTS, "already_loaded": True}) == {}
    assert metrics.loaded({"accepted": 3, "rejected": 2, "already_loaded": True}) == {}


def test_a_rate_that_was_not_measured_is_not_sent() -> None:
    assert (
        not {"capsfusion.fuse.rows_per_second", "capsfusion.fuse.occupancy"} & metrics.fused(Figures().as_dict()).keys()
    )


def test_the_page_lists_each_metric_with_its_kind() -> None:
    rows = re.findall(r"^\| `(capsfusion\.\S+)` \| (\w+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(name, metric.kind, metric.what) for name, metric in METRICS.items()]


def prometheus_names() -> set[str]:
    """The names that statsd_exporter gives the tasks' metrics in Prometheus."""
    names = {
        name.replace(REASON, reason): metric
        for name, metric in METRICS.items()
        for reason in (REASONS if name.startswith("capsfusion.validate") else ("",))
    }
    found = set()
    for name, metric in names.items():
        flat = f"airflow_{name.replace('.', '_')}"
        found |= {f"{flat}_sum", f"{flat}_count"} if metric.kind == "timer" else {flat}
    return found


def queries(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel.get("targets", [])]


def test_each_panel_of_the_dashboard_shows_metrics_that_the_tasks_send() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {name for panel in panels for query in queries(panel) for name in re.findall(r"airflow_\w+", query)}
    assert asked <= prometheus_names(), asked - prometheus_names()
    assert all(queries(panel) for panel in panels)
    reasons = {name for name in asked if name.startswith("airflow_capsfusion_validate_rejected_")}
    assert len(reasons) == len(REASONS), "the panel of rejections has each reason"
