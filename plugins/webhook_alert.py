"""Sends alerts to the webhook of the Airflow Connection that CAPSFUSION_ALERT_CONN_ID names."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk import BaseNotifier, Connection
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from capsfusion_tasks.errors import InputError

if TYPE_CHECKING:
    from airflow.sdk import Context

SECONDS = 10
SLOWER_THAN_USUAL = timedelta(hours=24)


class WebhookAlert(BaseNotifier):
    """POSTs ``{"text": …}`` to a webhook. Slack, Mattermost and most other services accept this format.

    The webhook's URL is the password of the Connection, because such a URL is a secret and Airflow masks passwords in
    logs. ``text`` may be a Jinja template.
    """

    template_fields = ("text",)

    def __init__(self, conn_id: str, text: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.text = text

    def notify(self, context: Context) -> None:  # noqa: ARG002
        self._post(Connection.get(self.conn_id).password)

    async def async_notify(self, context: Context) -> None:  # noqa: ARG002
        connection = await Connection.async_get(self.conn_id)
        await asyncio.to_thread(self._post, connection.password)

    def _post(self, url: str | None) -> None:
        # Check the URL here, because urllib's error would show a part of the URL. The URL is a secret, and Airflow
        # masks only the whole URL.
        if not url or not _is_web_address(url):
            raise InputError(
                f"the password of Connection {self.conn_id} is not the http(s) URL of a webhook: correct it under"
                " Admin → Connections"
            )
        body = json.dumps({"text": self.text}).encode()
        try:
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
            with urllib.request.urlopen(request, timeout=SECONDS):  # noqa: S310
                self.log.info("sent to the webhook of Connection %s: %s", self.conn_id, self.text)
        except (ValueError, HTTPException) as error:  # do not show the error's message, which may have parts of the URL
            raise InputError(
                f"the webhook of Connection {self.conn_id} gave no HTTP answer ({type(error).__name__}): check"
                " that the Connection's password is the URL of a webhook"
            ) from None


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises ValueError if the port is not a number
    except ValueError:
        return False
    plain = url.isprintable() and " " not in url
    return plain and parts.scheme in ("https", "http") and bool(parts.hostname)


def on_failure() -> list[Callable[[Context], None]]:
    """The ``on_failure_callback`` of a DAG: one alert. Empty if CAPSFUSION_ALERT_CONN_ID is not set."""
    conn_id = os.environ.get("CAPSFUSION_ALERT_CONN_ID")
    # The template tests for a data interval, because a run without a logical date has none.
    text = (
        "{{ dag.dag_id }} failed: {{ run_id }}{% if dag_run is defined and dag_run.conf and dag_run.conf.day %}, day"
        " {{ dag_run.conf.day }}{% elif data_interval_start is defined and data_interval_start %}, data interval"
        " {{ data_interval_start }} to {{ data_interval_end }}{% endif %}"
    )
    return [WebhookAlert(conn_id, text)] if conn_id else []


class TaskAlert(WebhookAlert):
    """An alert of a running task. If the webhook fails, the task continues, because the UI shows the same facts."""

    sent = False

    def notify(self, context: Context) -> None:
        try:
            super().notify(context)
            self.sent = True
        except Exception:
            self.log.exception(
                "the task continues, but could not send this to the webhook of Connection %s: %s",
                self.conn_id,
                self.text,
            )


def question(text: str) -> list[BaseNotifier]:
    """The notifiers of a task that asks a question: one alert. Empty if CAPSFUSION_ALERT_CONN_ID is not set."""
    conn_id = os.environ.get("CAPSFUSION_ALERT_CONN_ID")
    return [TaskAlert(conn_id, "{{ dag.dag_id }} asks: " + text)] if conn_id else []


def tell(context: Context, text: str) -> bool:
    """Send ``text``, which is not a template. Returns whether it was sent.

    Sends nothing if CAPSFUSION_ALERT_CONN_ID is not set.
    """
    if not (conn_id := os.environ.get("CAPSFUSION_ALERT_CONN_ID")):
        return False
    alert = TaskAlert(conn_id, text)
    alert.notify(context)
    return alert.sent


def deadline() -> DeadlineAlert | None:
    """The deadline of a run: the average duration of the last ten runs plus a day. A longer run sends an alert.

    None if CAPSFUSION_ALERT_CONN_ID is not set. Before the first run has succeeded, Airflow sets no deadline. The
    deadline is not a fixed time after DAGRUN_QUEUED_AT, because Airflow 3.3.2 then answers HTTP 500 when a task is
    cleared.
    """
    conn_id = os.environ.get("CAPSFUSION_ALERT_CONN_ID")
    if not conn_id:
        return None
    text = (
        "{{ dag_run.dag_id }} is late: {{ dag_run.dag_run_id }} has not succeeded, and has taken a day longer than the"
        " last runs did on average"
    )
    callback = AsyncCallback(WebhookAlert, kwargs={"conn_id": conn_id, "text": text})
    return DeadlineAlert(DeadlineReference.AVERAGE_RUNTIME(max_runs=10, min_runs=1), SLOWER_THAN_USUAL, callback)
