"""Writes a run's report into its note, which the UI shows beside the run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

# The XCom that the task "report" pushes, even if it fails afterwards: a headline, and lines. It must not be a key of
# the dict that the task returns: Airflow makes an XCom of each key.
KEY = "note"
CHECKED = "checked"  # the XCom of the task "check", with its findings
UNCHECKED = {"findings": None, "text": "check: it could not be done"}
AUTHOR = "capsfusion"  # the note's user: tells it from a note that a person wrote
_EARLIER_HEAD = "Report:"  # notes of earlier versions begin with it and have no user
_LONGEST = 1000  # characters, the size of the column: a longer note would break the scheduler's transaction
_LONGEST_LINE = 400
_REST = "- … the log of the task report has the rest"
# The UI renders a note as Markdown. Lines with other characters, such as names of files, are shown as code.
_PLAIN = re.compile(r"[\w ,.:;=+()/%…-]*")


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
        from airflow.models.dagrun import DagRunNote
        from airflow.models.xcom import XComModel
        from sqlalchemy.orm import object_session

        session = object_session(dag_run)
        if session is None:
            return
        query = XComModel.get_many(key=KEY, run_id=dag_run.run_id, task_ids="report", dag_ids=dag_run.dag_id, limit=1)
        report = session.scalars(query).first()
        if report is None:
            return
        text, note = as_note(XComModel.deserialize_value(report)), dag_run.dag_run_note
        if note is None:
            dag_run.dag_run_note = DagRunNote(text, AUTHOR)  # type: ignore[no-untyped-call]
        elif note.user_id == AUTHOR or (note.user_id is None and (note.content or "").startswith(_EARLIER_HEAD)):
            note.content, note.user_id = text, AUTHOR


def compose(report: dict[str, Any], checked: dict[str, Any] | None = None) -> str:
    """A headline, and lines: what failed first, because the end may be cut off."""
    headline, failed, done = report["headline"], report["failures"], report["lines"]
    if checked:
        count = checked["findings"]
        told = "the check failed" if count is None else "1 finding" if count == 1 else f"{count} findings"
        headline = f"{headline}, {told}"
        failed, done = ([*failed, checked["text"]], done) if count else (failed, [*done, checked["text"]])
    return "\n".join([headline, *failed, *done])


def as_note(report: str) -> str:
    """The report as Markdown: its first line, and a list of the others, cut to what Airflow can store."""
    headline, *lines = [line.strip() for line in report.splitlines() if line.strip()]
    note, items = f"{_as_text(headline)}\n", [f"\n- {_as_text(line)}" for line in lines]
    for number, item in enumerate(items):
        last = number == len(items) - 1
        if len(note) + len(item) + (0 if last else len(_REST) + 1) > _LONGEST:
            return f"{note}\n{_REST}"
        note += item
    return note


def _as_text(line: str) -> str:
    """``line`` in Markdown that shows it as it is."""
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE - 1]}…"
    if _PLAIN.fullmatch(line) and "://" not in line and "www." not in line.lower():
        return line
    # A code span ends at as many backticks as it began with.
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


class RunNotePlugin(AirflowPlugin):
    name = "capsfusion_run_note"
    listeners = [RunNote()]  # noqa: RUF012
