"""Calls Airflow's REST API, for the demo and the tests."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx2

from capsfusion_tasks.errors import NotReadyError

Json = dict[str, Any]

DAG = "capsfusion"
PAGE = 100  # maximum number of rows that Airflow returns per call


class AirflowApiError(Exception):
    """An error response of Airflow. ``status`` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class AirflowApi:
    """The REST API of the Airflow at ``url``.

    Logs in as a user of Airflow's simple auth manager. Raises NotReadyError if Airflow does not answer.
    """

    def __init__(self, url: str, username: str, password: str) -> None:
        self.url = url
        self._login = {"username": username, "password": password}
        # A new connection for each call, because Airflow may have been restarted since the last call.
        self._http = httpx2.Client(timeout=120, limits=httpx2.Limits(max_keepalive_connections=0))

    def request(self, method: str, path: str, body: Json | None = None, **query: Any) -> Any:
        """Call ``/api/v2`` + ``path`` and return the decoded JSON. Logs in on the first call."""
        if "Authorization" not in self._http.headers:
            token = self._send("POST", "/auth/token", self._login)["access_token"]
            self._http.headers["Authorization"] = f"Bearer {token}"
        return self._send(method, f"/api/v2{path}", body, query)

    def health(self) -> dict[str, str]:
        """Name of each component of Airflow → its status, such as "healthy". Needs no login."""
        answer = self._send("GET", "/api/v2/monitor/health")
        return {name: part.get("status") for name, part in answer.items() if part and part.get("status")}

    def prepare_task_api(self) -> None:
        """Call the API that tasks use. At the first call after its start, Airflow generates all versions of this API.

        Generating them takes 7 s on a slow machine, and Airflow answers no other request meanwhile. Without this call
        before the first tasks, requests of these tasks could time out.
        """
        self._send("GET", "/execution/health")

    def import_errors(self) -> list[str]:
        return [error["stack_trace"] for error in self.request("GET", "/importErrors")["import_errors"]]

    def dag_parsed_at(self) -> datetime | None:
        """The time when Airflow last parsed the DAG. None if it has not parsed the DAG yet."""
        try:
            parsed = self.request("GET", f"/dags/{DAG}")["last_parsed_time"]
        except AirflowApiError as error:
            if error.status == 404:
                return None
            raise
        return None if parsed is None else datetime.fromisoformat(parsed)

    def set_pool(self, name: str, slots: int) -> None:
        """Create the pool ``name`` with ``slots`` slots, or change its number of slots."""
        # Airflow requires both fields, even to change only one of them.
        pool = {"slots": slots, "include_deferred": False}
        try:
            self.request("POST", "/pools", {"name": name, **pool})
        except AirflowApiError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            self.request("PATCH", f"/pools/{name}", {"pool": name, **pool}, update_mask="slots")

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
        """Start a backfill of the runs with logical dates in [start, end]. Returns the backfill's id.

        ``reprocess``: which of the existing runs are repeated: none, failed, or completed (failed and successful ones).
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
        """Close backfills whose runs have all ended. Returns whether a backfill is still running.

        While a backfill of a DAG is open, Airflow refuses a second one. Airflow itself closes backfills with a delay.
        """
        active = [
            each
            for each in self.request("GET", "/backfills", dag_id=DAG, order_by="-id")["backfills"]
            if not each["completed_at"]
        ]
        if active and self.runs(state=["queued", "running"], run_type="backfill"):
            return True
        for backfill in active:
            try:
                self.request("PUT", f"/backfills/{backfill['id']}/cancel")
            except AirflowApiError as error:
                if error.status != HTTPStatus.CONFLICT:  # CONFLICT means that Airflow has already closed it
                    raise
        return False

    def runs(self, **query: Any) -> list[Json]:
        found = self.request("GET", f"/dags/{DAG}/dagRuns", limit=PAGE, order_by="logical_date", **query)
        runs: list[Json] = found["dag_runs"]
        return runs

    def task_instances(self, run_id: str = "~", **query: Any) -> list[Json]:
        """Task instances of one run, or of all runs. A mapped task has one instance for each map index."""
        path = f"/dags/{DAG}/dagRuns/{quote(run_id, safe='~')}/taskInstances"
        found: list[Json] = []
        while True:
            page = self.request("GET", path, limit=PAGE, offset=len(found), **query)
            found += page["task_instances"]
            if not page["task_instances"] or len(found) >= page["total_entries"]:
                return found

    def _send(self, method: str, path: str, body: Json | None = None, query: Json | None = None) -> Any:
        try:
            answer = self._http.request(method, self.url + path, json=body, params=query or None)
        except httpx2.TransportError as error:
            raise NotReadyError(
                f"no answer from Airflow at {self.url}: {error}. Check that Airflow runs at this URL"
            ) from error
        if answer.is_error:
            raise AirflowApiError(answer.status_code, f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None
