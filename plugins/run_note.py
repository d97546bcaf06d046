"""Writes a run's report into its note, which the UI shows beside the run."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

# The XCom that the task "report" pushes, even if it fails afterwards. It must not be a key of the dict that the task
# returns: Airflow makes an XCom of each key.
KEY = "note"
_HEAD = "Report:"  # a note that begins with it was written here, not by a user
# The UI renders a note as Markdown. Errors quote file names; in an indented block they stay plain text.
_AS_TEXT = "    "
_LONGEST = 1000  # characters, the size of the column: a longer note would break the scheduler's transaction
_REST = f"\n{_AS_TEXT}… the log of the task report has the rest"


class RunNote:
    """Writes the note when a run ends. A note that a user wrote is kept."""

    @hookimpl
    def on_dag_run_success(self, dag_run: DagRun) -> None:
        self._write(dag_run)

    @hookimpl
    def on_dag_run_failed(self, dag_run: DagRun) -> None:
        self._write(dag_run)

    def _write(self, dag_run: DagRun) -> None:
        if not dag_run.dag_id.startswith("capsfusion"):
            return
        # Imported here, because tasks load plugins too and have no access to Airflow's database.
        from airflow.models.xcom import XComModel
        from sqlalchemy.orm import object_session

        session = object_session(dag_run)
        if session is None:
            return
        query = XComModel.get_many(key=KEY, run_id=dag_run.run_id, task_ids="report", dag_ids=dag_run.dag_id, limit=1)
        summary = session.scalars(query).first()
        if summary is not None and (dag_run.note is None or dag_run.note.startswith(_HEAD)):
            dag_run.note = as_note(XComModel.deserialize_value(summary))


def as_note(report: str) -> str:
    """The report as a note: shown as plain text, cut to what Airflow can store."""
    note = f"{_HEAD}\n\n{textwrap.indent(report, _AS_TEXT)}"
    return note if len(note) <= _LONGEST else note[: _LONGEST - len(_REST)] + _REST


class RunNotePlugin(AirflowPlugin):
    name = "capsfusion_run_note"
    listeners = [RunNote()]  # noqa: RUF012
