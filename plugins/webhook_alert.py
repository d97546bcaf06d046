"""Tells somebody: a message to the webhook of the Connection that CAPSFUSION_ALERT_CONN_ID names."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier, Connection

if TYPE_CHECKING:
    from airflow.sdk import Context

SECONDS = 10


class WebhookAlert(BaseNotifier):
    """POSTs ``{"text": …}``, which Slack, Mattermost and most others take, to the URL that is a Connection's password.

    The password, because such a URL is a secret: Airflow masks it in logs and never shows it. As a callback of a DAG,
    ``text`` may be a template.
    """

    template_fields = ("text",)

    def __init__(self, conn_id: str, text: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.text = text

    def notify(self, context: Context) -> None:  # noqa: ARG002
        self._post(Connection.get(self.conn_id).password)

    def _post(self, url: str) -> None:
        body = json.dumps({"text": self.text}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=SECONDS):  # noqa: S310
            self.log.info("told the webhook of Connection %s: %s", self.conn_id, self.text)


def on_failure() -> list[Callable[[Context], None]]:
    """Callbacks for a DAG: a run that failed. None where no Connection is named."""
    conn_id = os.environ.get("CAPSFUSION_ALERT_CONN_ID")
    # A run that is triggered without a logical date has no data interval.
    text = (
        "{{ dag.dag_id }} failed: {{ run_id }}{% if data_interval_start is defined and data_interval_start %}, data"
        " interval {{ data_interval_start }} to {{ data_interval_end }}{% endif %}"
    )
    return [WebhookAlert(conn_id, text)] if conn_id else []
