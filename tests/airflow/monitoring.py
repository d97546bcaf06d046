"""Receives what a monitored Airflow sends: alerts over HTTP, StatsD lines over UDP, and OpenLineage events in files."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState


@dataclass
class Webhook:
    """A web server that keeps the texts of the alerts that it receives."""

    url: str
    texts: list[str]


@contextmanager
def webhook_server(path: str) -> Iterator[Webhook]:
    texts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            texts.append(json.loads(body)["text"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield Webhook(f"http://127.0.0.1:{server.server_port}{path}", texts)
        server.shutdown()


@dataclass
class StatsdListener:
    """A StatsD server that keeps the lines that it receives."""

    port: int
    lines: list[str] = field(default_factory=list)

    def named(self, prefix: str) -> dict[str, list[tuple[float, str]]]:
        """Metrics whose names begin with ``prefix``: name → list of (value, kind). Kinds: ``c``, ``g``, ``ms``."""
        found: dict[str, list[tuple[float, str]]] = {}
        for line in self.lines:
            name, _, rest = line.partition(":")
            if name.startswith(prefix):
                value, kind = rest.split("|")[:2]
                found.setdefault(name, []).append((float(value), kind))
        return found


@contextmanager
def statsd_listener() -> Iterator[StatsdListener]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        listener = StatsdListener(server.getsockname()[1])

        def listen() -> None:
            while packet := server.recv(65536):
                listener.lines.extend(packet.decode().splitlines())

        thread = Thread(target=listen, daemon=True)
        thread.start()
        yield listener
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", listener.port))
        thread.join(10)


def monitored(folder: Path, statsd_port: int) -> dict[str, str]:
    """Settings with which Airflow sends metrics to the StatsD server at ``statsd_port``, and events to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    transport = {"type": "file", "log_file_path": str(folder / "event")}
    return {
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
        "AIRFLOW__METRICS__STATSD_PORT": str(statsd_port),
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
        # Send events in a thread. By default, each task forks two or three times for this.
        "AIRFLOW__OPENLINEAGE__EXECUTE_IN_THREAD": "True",
    }


def read_events(folder: Path, dag_id: str) -> list[RunEvent]:
    """The events of the DAG's tasks. OpenLineage's client parses them, and checks ids, times and addresses."""
    events = [_event(json.loads(file.read_text())) for file in sorted(folder.iterdir())]
    return [event for event in events if event.job.name.startswith(f"{dag_id}.")]


def _event(event: dict[str, Any]) -> RunEvent:
    return RunEvent(
        eventType=RunState(event["eventType"]),
        eventTime=event["eventTime"],
        producer=event["producer"],
        run=Run(**event["run"]),
        job=Job(**event["job"]),
        inputs=[InputDataset(**dataset) for dataset in event["inputs"]],
        outputs=[OutputDataset(**dataset) for dataset in event["outputs"]],
    )
