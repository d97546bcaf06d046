"""A small client of Airflow's REST API: what the demo and the tests ask of a running Airflow."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime
from typing import Any

from capsfusion_tasks.errors import NotReadyError

Json = dict[str, Any]

DAG = "capsfusion"
PAGE = 100  # the most that Airflow gives at once


class AirflowApiError(Exception):
    """Airflow's answer was an error; ``status`` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class AirflowApi:
    """Airflow at ``url``, as a user of its simple auth manager. ``NotReadyError``: nothing answers there."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self.url = url
        self._login = {"username": username, "password": password}
        self._token: str | None = None

    def request(self, method: str, path: str, body: Json | None = None, **query: Any) -> Any:
        if self._token is None:
            self._token = self._send("POST", "/auth/token", self._login)["access_token"]
        return self._send(method, f"/api/v2{path}", body, query)

    def health(self) -> dict[str, str]:
        """Component to status ("healthy"); needs no login."""
        answer = self._send("GET", "/api/v2/monitor/health")
        return {name: part.get("status") for name, part in answer.items() if part and part.get("status")}

    def import_errors(self) -> list[str]:
        return [error["stack_trace"] for error in self.request("GET", "/importErrors")["import_errors"]]

    def dag_parsed_at(self) -> datetime | None:
        """When Airflow last read the DAG; None before the first time."""
        try:
            parsed = self.request("GET", f"/dags/{DAG}")["last_parsed_time"]
        except AirflowApiError as error:
            if error.status == 404:
                return None
            raise
        return None if parsed is None else datetime.fromisoformat(parsed)

    def unpause(self) -> None:
        self.request("PATCH", f"/dags/{DAG}", {"is_paused": False}, update_mask="is_paused")

    def backfill(
        self,
        start: datetime,
        end: datetime,
        *,
        reprocess: str,
        max_active_runs: int,
        backwards: bool = False,
        conf: Json | None = None,
    ) -> int:
        """Start a backfill of the runs whose logical dates lie in [start, end]; its id.

        ``reprocess``: which runs that are there already run again: none, failed or completed (that is, all).
        """
        body = {
            "dag_id": DAG,
            "from_date": start.isoformat(),
            "to_date": end.isoformat(),
            "reprocess_behavior": reprocess,
            "max_active_runs": max_active_runs,
            "run_backwards": backwards,
            "dag_run_conf": conf or {},
        }
        return int(self.request("POST", "/backfills", body)["id"])

    def close_backfills(self) -> bool:
        """End backfills whose runs have all ended, which Airflow itself notices after a while; whether one goes on.

        Airflow refuses a second backfill of a DAG while it holds the first for active.
        """
        active = [
            each
            for each in self.request("GET", "/backfills", dag_id=DAG, order_by="-id")["backfills"]
            if not each["completed_at"]
        ]
        if active and self.runs(state=["queued", "running"], run_type="backfill"):
            return True
        for backfill in active:
            self.request("PUT", f"/backfills/{backfill['id']}/cancel")
        return False

    def runs(self, **query: Any) -> list[Json]:
        runs: list[Json] = self.request("GET", f"/dags/{DAG}/dagRuns", limit=PAGE, order_by="logical_date", **query)[
            "dag_runs"
        ]
        return runs

    def task_instances(self, run_id: str = "~", **query: Any) -> list[Json]:
        """Of the run, or of all runs; a mapped task has one per map index."""
        path = f"/dags/{DAG}/dagRuns/{urllib.parse.quote(run_id, safe='~')}/taskInstances"
        found: list[Json] = []
        while True:
            page = self.request("GET", path, limit=PAGE, offset=len(found), **query)
            found += page["task_instances"]
            if not page["task_instances"] or len(found) >= page["total_entries"]:
                return found

    def _send(self, method: str, path: str, body: Json | None = None, query: Json | None = None) -> Any:
        url = self.url + path + ("?" + urllib.parse.urlencode(query, doseq=True) if query else "")
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 (always http://127.0.0.1)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
                content = answer.read()
        except urllib.error.HTTPError as error:
            raise AirflowApiError(error.code, f"{method} {path}: {error.code} {error.read().decode()[:500]}") from error
        except OSError as error:
            raise NotReadyError(f"no answer from Airflow at {self.url}: {error}") from error
        return json.loads(content) if content else None
