"""Puts a run's report into its note, where the UI shows it beside the run."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

# Of the XCom that the task "report" pushes, whether it fails then or not. No name in the dict that it returns: Airflow
# makes an XCom of each of these, too.
KEY = "note"
_HEAD = "Report:"  # tells our notes from a user's
# The UI renders a note as Markdown, and errors quote names from outside: an indented block takes everything as text.
_AS_TEXT = "    "
_LONGEST = 1000  # characters of the column: PostgreSQL refuses a longer note, in the transaction of the scheduler
_REST = f"\n{_AS_TEXT}… the rest stands in the log of the task report"


class RunNote:
    """Writes the note when a run of the DAG ends. A note that somebody wrote stays as it is."""

    @hookimpl
    def on_dag_run_success(self, dag_run: DagRun) -> None:
        self._write(dag_run)

    @hookimpl
    def on_dag_run_failed(self, dag_run: DagRun) -> None:
        self._write(dag_run)

    def _write(self, dag_run: DagRun) -> None:
        if not dag_run.dag_id.startswith("capsfusion"):
            return
        # Imported here, in the scheduler: tasks load plugins too, and have no database.
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
    """The report as a note: text in the UI, whatever is quoted in it, and no longer than Airflow can store."""
    note = f"{_HEAD}\n\n{textwrap.indent(report, _AS_TEXT)}"
    return note if len(note) <= _LONGEST else note[: _LONGEST - len(_REST)] + _REST


class RunNotePlugin(AirflowPlugin):
    name = "capsfusion_run_note"
    listeners = [RunNote()]  # noqa: RUF012
