"""Writes the report of a run into the run's note, which the UI shows beside the run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin
from run_context import told, utc_day
from run_pages import captions_of_run

from capsfusion_tasks.errors import first_lines
from capsfusion_tasks.intervals import Interval

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

# Key of the XCom with the text of the report: a headline and lines. The task "report" pushes this XCom, even if the
# task fails afterwards. The dict that the task returns must not have the key "note", because Airflow makes an XCom of
# each key of the dict.
KEY = "note"
CHECKED = "checked"  # key of the XCom of the task "check", with its findings
UNCHECKED = {"findings": None, "text": "check: no result, because the task check failed"}
AUTHOR = "capsfusion"  # this module's notes have this user; notes of other users are kept
_EARLIER_HEAD = "Report:"  # notes of earlier versions of this plugin begin with this text and have no user
# Length limit of a note, the size of its column. A longer note would break the scheduler's transaction.
_LONGEST = 1000
_LONGEST_LINE = 400
_REST = "- … the log of the report task has the rest"
DAGS = ("capsfusion", "capsfusion_replay")
# The UI renders a note as Markdown. Lines that do not match this pattern are shown as code, because they could contain
# Markdown.
_PLAIN = re.compile(r"[\w ,.:;=+()/%…-]*")


_RUNNING = "running"
# Airflow's UI sends the Params of a backfill only if the form's box "Override parameters on existing runs" is ticked.
_NO_PARAMS = "To apply the Params of a backfill, tick Override parameters on existing runs in its form"


class RunNote:
    """Writes the note when a run starts and when it ends. A note that a user wrote is kept."""

    @hookimpl
    def on_dag_run_running(self, dag_run: DagRun) -> None:
        self._write(dag_run, _RUNNING)

    @hookimpl
    def on_dag_run_success(self, dag_run: DagRun) -> None:
        self._write(dag_run, "marked as successful, without a report")

    @hookimpl
    def on_dag_run_failed(self, dag_run: DagRun) -> None:
        self._write(dag_run, "failed without a report: see the log of its last task")

    def _write(self, dag_run: DagRun, state: str) -> None:
        """Write the run's note. ``state``: the headline if the run has no report."""
        if dag_run.dag_id not in DAGS:
            return
        # Imported here, because tasks also load this plugin, but have no access to Airflow's database.
        from airflow.models.dagrun import DagRun, DagRunNote
        from airflow.models.xcom import XComModel
        from sqlalchemy import select
        from sqlalchemy.orm import object_session

        session = object_session(dag_run)
        if session is None:
            return
        # If the scheduler starts a run while a user marks the run as failed, two processes write its first note. The
        # second process waits here, and then finds the note of the first.
        session.flush()
        session.execute(select(DagRun.id).where(DagRun.id == dag_run.id).with_for_update())
        session.expire(dag_run, ["dag_run_note"])
        query = XComModel.get_many(key=KEY, run_id=dag_run.run_id, task_ids="report", dag_ids=dag_run.dag_id, limit=1)
        found = session.scalars(query).first() if state != _RUNNING else None
        report = _unreported(dag_run, state) if found is None else XComModel.deserialize_value(found)
        if dag_run.backfill is not None and dag_run.backfill.dag_run_conf is None:
            headline, _, rest = report.partition("\n")
            report = f"{headline} (the backfill gave no Params)\n{_NO_PARAMS}\n{rest}"
        text, note = as_note(report, end=_link(dag_run)), dag_run.dag_run_note
        if note is None:
            dag_run.dag_run_note = DagRunNote(text, AUTHOR)  # type: ignore[no-untyped-call]
        elif note.user_id == AUTHOR or (note.user_id is None and (note.content or "").startswith(_EARLIER_HEAD)):
            note.content, note.user_id = text, AUTHOR


def compose(report: dict[str, Any], checked: dict[str, Any] | None = None, about: Sequence[str] = ()) -> str:
    """The report as text: headline, failures, ``about``, the rest.

    Failures come early, because the end of a long note is cut.
    """
    headline, failed, done = report["headline"], first_lines(report["failures"]), report["lines"]
    if checked:
        count = checked["findings"]
        told = "the check failed" if count is None else "1 finding" if count == 1 else f"{count} findings"
        headline = f"{headline}, {told}"
        failed, done = ([*failed, checked["text"]], done) if count else (failed, [*done, checked["text"]])
    return "\n".join([headline, *failed, *about, *done])


def as_note(report: str, end: str = "") -> str:
    """The report as Markdown: its first line, a list of its other lines, and ``end``. Cut to Airflow's limit."""
    headline, *lines = [line.strip() for line in report.splitlines() if line.strip()]
    note, items = as_text(headline), [f"\n- {as_text(line)}" for line in lines]
    if items:
        items[0] = f"\n{items[0]}"
    for number, item in enumerate(items):
        last = number == len(items) - 1
        if len(note) + len(item) + len(end) + (0 if last else len(_REST) + 1) > _LONGEST:
            return f"{note}\n{_REST}{end}"
        note += item
    return note + end


def _unreported(dag_run: DagRun, state: str) -> str:
    """The note of a run without a report: the run has just started, or its last task has not run."""
    start, stop = dag_run.data_interval_start, dag_run.data_interval_end
    if day := (dag_run.conf or {}).get("day"):
        interval = told(utc_day(day))
    elif start is None or stop is None:
        interval = "interval: none"
    else:
        interval = told(Interval(start=start, end=stop))
    return f"{state}, {interval}" if dag_run.dag_id == DAGS[0] else state


def _link(dag_run: DagRun) -> str:
    return f"\n\n[Captions and speed of this run]({captions_of_run(dag_run.dag_id, dag_run.run_id)})"


def as_text(line: str) -> str:
    """Markdown that shows ``line`` literally. Cuts a long line."""
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE - 1]}…"
    if _PLAIN.fullmatch(line) and "://" not in line and "www." not in line.lower():
        return line
    return as_code(line)


def as_code(line: str) -> str:
    """``line`` as a code span of Markdown."""
    # A code span ends at the first sequence of backticks that is as long as the opening sequence. So the opening
    # sequence must be longer than any sequence of backticks in the line.
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


class RunNotePlugin(AirflowPlugin):
    name = "capsfusion_run_note"
    listeners = [RunNote()]  # noqa: RUF012
