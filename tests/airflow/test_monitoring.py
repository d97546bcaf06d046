"""Airflow's configuration decides whether a task sends metrics to StatsD, to OpenTelemetry, or nowhere."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.airflow.monitoring import statsd_listener

REPOSITORY = Path(__file__).resolve().parents[2]
TRANSPORT = json.dumps({"type": "console"})
# Sends figures as a task does. Airflow's task runner calls stats.initialize in the same way.
CODE = """
import json, sys
sys.path.insert(0, "plugins")
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics import stats_utils
from opentelemetry.sdk.trace import TracerProvider
import fusion_metrics, openlineage_events

stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)
with TracerProvider().get_tracer("task").start_as_current_span("task") as span:
    with fusion_metrics.timed("load"):
        fusion_metrics.send({"capsfusion.load.rows": 5, "capsfusion.fuse.occupancy": 0.5})
    fusion_metrics.send({"capsfusion.validate.rejected.truncated": 2})
fusion_metrics.send_queue(None) if len(sys.argv) > 1 else None  # without a warehouse: nothing is counted
openlineage_events.pulled(None, None, {})  # no event can be made of nothing, and the task goes on
loaded = [name for name in sys.modules if name.partition(".")[0] in ("openlineage", "statsd")]
print(json.dumps({"span": dict(span.attributes), "loaded": loaded}))
"""


def send(home: Path, *arguments: str, **variables: str) -> dict[str, Any]:
    """Run CODE in a process with ``variables``. Returns its span's attributes and its metrics clients."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "OTEL_"))}
    environment = {**inherited, "AIRFLOW_HOME": str(home), **variables}
    command = [sys.executable, "-c", CODE, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def otlp_collector() -> Iterator[tuple[str, dict[str, Any]]]:
    """A running OpenTelemetry collector: its address, and the metrics that it has received, by name."""
    received: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                received.update({metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics})
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()


def test_opentelemetry_gets_the_figures_as_metrics_and_in_the_span_of_the_task(tmp_path: Path) -> None:
    with otlp_collector() as (address, received):
        found = send(
            tmp_path,
            AIRFLOW__METRICS__OTEL_ON="True",
            OTEL_EXPORTER_OTLP_ENDPOINT=address,
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
            AIRFLOW__OPENLINEAGE__TRANSPORT=TRANSPORT,
        )
    [rows] = received["airflow.capsfusion.load.rows"].sum.data_points
    assert rows.as_int == 5
    [occupancy] = received["airflow.capsfusion.fuse.occupancy"].gauge.data_points
    assert occupancy.as_double == 0.5
    [duration] = received["airflow.capsfusion.load.duration"].exponential_histogram.data_points
    assert duration.count == 1
    assert found["span"] == {
        "capsfusion.load.rows": 5,
        "capsfusion.fuse.occupancy": 0.5,
        "capsfusion.validate.rejected.truncated": 2,
    }
    assert any(name.startswith("openlineage.client") for name in found["loaded"])


def test_nothing_is_sent_imported_or_counted_where_airflow_sends_nothing(tmp_path: Path) -> None:
    with statsd_listener() as statsd:
        found = send(
            tmp_path,
            "off",
            AIRFLOW__METRICS__STATSD_PORT=str(statsd.port),
            AIRFLOW__OPENLINEAGE__TRANSPORT=TRANSPORT,
            AIRFLOW__OPENLINEAGE__DISABLED="True",
        )
        assert statsd.lines == []
    assert found["loaded"] == []
