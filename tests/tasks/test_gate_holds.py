"""A unit that the gate stops is loaded only after a user's answer. The ledger keeps the answer if tasks run again."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import Unit
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.tasks import gate_tasks as _gate_tasks
from capsfusion_tasks.thresholds import GateSettings
from capsfusion_tasks.warehouse.gate_holds import Hold
from tests.opened import Opened, interval_tasks, unit_tasks
from tests.tasks.test_replay import DAY, accepted_below, cut_off, fuse, numbers_in, rex, rows

gate_tasks = Opened(_gate_tasks)

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOLDS = (
    "select unit_id, dag_run_id, rows_in, rejected, answer, answered_by, answered_at from gate_holds order by hold_id"
)


@pytest.fixture
def settings(tiny_model: Path, warehouse_url: str, tmp_path: Path) -> Settings:
    gate = GateSettings(min_rows=1)
    return load_settings(
        model=str(tiny_model), num_beams=1, buckets=1, warehouse_url=warehouse_url, home=tmp_path, gate=gate
    )


@pytest.fixture
def unit(settings: Settings) -> Unit:
    """A unit that is fused but not validated. All of its captions are truncated."""
    unit = planned_unit(settings)
    fuse(settings, unit, cut_off)
    return unit


def planned_unit(settings: Settings) -> Unit:
    Storage(settings.staging_uri).write_table(f"{layout.pairs_folder(DAY)}/00000.parquet", rex(range(6)))
    [unit] = interval_tasks.plan(settings, DAY)
    return unit


def two_units(settings: Settings) -> list[Unit]:
    Storage(settings.staging_uri).write_table(f"{layout.pairs_folder(DAY)}/00000.parquet", rex(range(2)))
    planned: list[Unit] = interval_tasks.plan(settings.model_copy(update={"unit_tokens": 1}), DAY)
    return planned


def judge(settings: Settings, unit: Unit, **options: Any) -> bool:
    """Validate ``unit`` as an Airflow run does. Returns whether the gate stops the unit."""
    held: bool = unit_tasks.validate(settings, unit, hold=True, dag_run_id="run 1", **options)["held"]
    return held


def told(settings: Settings, unit: Unit, dag_run_id: str, *, works: bool = True, **options: Any) -> list[str]:
    """Validate ``unit`` as a run's task does. Returns the units that the webhook is told of. ``works``: it answers."""
    sent: list[str] = []

    def send() -> bool:
        sent.append(unit.unit_id)
        return works

    if unit_tasks.validate(settings, unit, hold=True, dag_run_id=dag_run_id, **options)["held"]:
        gate_tasks.tell_once(settings, unit, dag_run_id, send)
    return sent


def to_ask(settings: Settings, unit: Unit) -> list[Hold]:
    holds: list[Hold] = gate_tasks.to_ask(settings, [unit.unit_id], "run 2")
    return holds


def answer(settings: Settings, unit: Unit, given: str, by: str = "Ada") -> list[Unit]:
    holds = [hold.hold_id for hold in to_ask(settings, unit)]
    loaded: list[Unit] = gate_tasks.answer(settings, holds, given, by, NOON)
    return loaded


def test_a_held_unit_is_loaded_after_the_answer_and_the_ledger_says_whose_it_was(
    settings: Settings, unit: Unit
) -> None:
    assert judge(settings, unit)
    assert unit_tasks.held_by_gate(settings, unit)
    with pytest.raises(InputError, match="the gate holds unit"):
        unit_tasks.load(settings, unit)
    [hold] = to_ask(settings, unit)
    assert (hold.rows, hold.rejected, hold.answer) == (6, 6, None)
    assert "truncated" in hold.details
    assert gate_tasks.to_ask(settings, ["another"], "run 1") == []

    assert answer(settings, unit, "load") == [unit]
    unit_tasks.load(settings, unit)
    assert numbers_in(settings, "rejected_captions") == list(range(6))
    [row] = rows(settings, HOLDS)
    assert row.pop("answered_at") == NOON
    counts = {"rows_in": 6, "rejected": 6}
    assert row == {"unit_id": unit.unit_id, "dag_run_id": "run 1", **counts, "answer": "load", "answered_by": "Ada"}
    assert to_ask(settings, unit) == []
    assert not judge(settings, unit), "a loaded unit is not held"


def test_the_first_answer_counts_and_a_task_that_is_tried_again_gets_the_same_units(
    settings: Settings, unit: Unit
) -> None:
    judge(settings, unit)
    [hold] = to_ask(settings, unit)
    for given, by in (("load", "Ada"), ("keep out", "Bob"), ("load", "Ada")):
        assert gate_tasks.answer(settings, [hold.hold_id], given, by, NOON) == [unit]
    assert [(row["answer"], row["answered_by"]) for row in rows(settings, HOLDS)] == [("load", "Ada")]


@pytest.mark.parametrize("judged_again", [True, False], ids=["all is cleared", "the question is cleared"])
def test_a_unit_that_is_kept_out_is_not_loaded_and_is_asked_about_when_its_run_is_cleared(
    settings: Settings, unit: Unit, judged_again: bool
) -> None:
    judge(settings, unit)
    assert answer(settings, unit, "keep out") == []
    with pytest.raises(InputError, match="the gate holds unit"):
        unit_tasks.load(settings, unit)
    [failed] = rows(settings, "select state, error from work_units")
    assert failed["state"] == "failed"
    assert failed["error"].startswith("kept out by Ada: 6 of 6 captions are rejected, and ")

    if judged_again:
        assert judge(settings, unit)
    assert answer(settings, unit, "load", by="Bob") == [unit]
    assert [(row["answer"], row["answered_by"]) for row in rows(settings, HOLDS)] == [
        ("keep out", "Ada"),
        ("load", "Bob"),
    ]


def test_nobody_is_asked_twice_about_the_same_captions(settings: Settings, unit: Unit) -> None:
    judge(settings, unit)
    [asked] = to_ask(settings, unit)
    assert judge(settings, unit), "nobody has answered"
    assert to_ask(settings, unit) == [asked], "two runs of the unit wait for the same answer"
    answer(settings, unit, "load")
    assert not judge(settings, unit)
    assert len(rows(settings, HOLDS)) == 1


def test_the_reason_for_units_that_are_kept_out_names_the_answer_that_counts(settings: Settings, unit: Unit) -> None:
    judge(settings, unit)
    [hold] = to_ask(settings, unit)
    why = []
    for given, by in (("keep out", "Ada"), ("load", "Bob")):
        assert gate_tasks.answer(settings, [hold.hold_id], given, by, NOON) == []
        why.append(gate_tasks.why_kept_out(settings, [hold.hold_id], given))
    kept_out = 'the answer of Ada is "keep out"'
    assert why == [kept_out, f"{kept_out}, and the first answer counts"]


def test_an_answer_to_a_question_about_earlier_verdicts_has_no_effect(settings: Settings) -> None:
    unit = planned_unit(settings)
    fuse(settings, unit, accepted_below(2))
    judge(settings, unit)
    [hold] = to_ask(settings, unit)
    stricter = settings.model_copy(update={"rules": settings.rules.model_copy(update={"min_words": 99})})
    judge(stricter, unit)
    assert gate_tasks.answer(settings, [hold.hold_id], "load", "Ada", NOON) == []
    said = gate_tasks.why_kept_out(settings, [hold.hold_id], "load")
    assert said == "they were validated or planned again after the question was asked"


def test_more_rejections_than_were_asked_about_are_another_question(settings: Settings) -> None:
    unit = planned_unit(settings)
    fuse(settings, unit, accepted_below(2))
    judge(settings, unit)
    answer(settings, unit, "load")
    assert not judge(settings, unit)
    stricter = settings.model_copy(update={"rules": settings.rules.model_copy(update={"min_words": 99})})
    assert judge(stricter, unit)
    assert [(row["rejected"], row["answer"]) for row in rows(settings, HOLDS)] == [(4, "load"), (6, None)]


@pytest.mark.parametrize("before", [None, "keep out"])
def test_a_run_that_accepts_rejections_asks_nobody(settings: Settings, unit: Unit, before: str | None) -> None:
    if before:
        judge(settings, unit)
        answer(settings, unit, before)
    assert not judge(settings, unit, accept_rejections=True)
    unit_tasks.load(settings, unit)
    assert rows(settings, HOLDS)[-1]["answered_by"] == "accept_rejections"


def test_a_unit_that_the_gate_no_longer_stops_is_let_in(settings: Settings, unit: Unit) -> None:
    judge(settings, unit)
    answer(settings, unit, "keep out")
    looser = settings.model_copy(update={"gate": GateSettings(min_rows=100)})
    assert not judge(looser, unit)
    unit_tasks.load(looser, unit)
    assert rows(settings, HOLDS)[-1]["answered_by"] == "validation"


def test_a_run_tells_once_of_its_held_units_also_if_tasks_run_again(settings: Settings) -> None:
    first, second = units = two_units(settings)
    for unit in units:
        fuse(settings, unit, cut_off)
    assert told(settings, first, "run 1") == [first.unit_id]
    assert told(settings, second, "run 1") == []
    assert told(settings, first, "run 1") == [], "the task is tried again"
    stricter = settings.model_copy(update={"rules": settings.rules.model_copy(update={"min_words": 99})})
    for unit in units:
        assert told(stricter, unit, "run 1") == [], "with other counts"
    assert told(settings, second, "run 2") == [second.unit_id], "another run has its own question"
    assert told(settings, second, "run 2") == []
    for unit in units:
        answer(settings, unit, "keep out")
    assert told(settings, second, "run 2") == [second.unit_id], "the run is cleared after the answer"
    assert told(settings, first, "run 3", accept_rejections=True) == []


def test_a_message_that_was_not_sent_is_sent_by_the_next_try_or_the_next_held_unit(settings: Settings) -> None:
    first, second = units = two_units(settings)
    for unit in units:
        fuse(settings, unit, cut_off)
    unit_tasks.validate(settings, first, hold=True, dag_run_id="run 1")  # and the worker dies
    with pytest.raises(KeyboardInterrupt):  # and this one dies before the webhook has answered
        gate_tasks.tell_once(settings, first, "run 1", interrupted)
    assert told(settings, first, "run 1", works=False) == [first.unit_id]
    assert told(settings, second, "run 1") == [second.unit_id]
    assert told(settings, first, "run 1") == []


def interrupted() -> bool:
    raise KeyboardInterrupt


def test_an_answer_about_one_unit_closes_no_question_about_another(settings: Settings) -> None:
    first, second = units = two_units(settings)
    for unit in units:
        fuse(settings, unit, cut_off)
        told(settings, unit, "run 1")
    [hold] = to_ask(settings, first)
    gate_tasks.answer(settings, [hold.hold_id], "keep out", "Ada", NOON)
    assert told(settings, first, "run 1") == [], "the run still waits for the answer about the second unit"
    answer(settings, second, "keep out")
    answer(settings, first, "keep out")
    assert told(settings, first, "run 1") == [first.unit_id]


def test_of_units_that_are_held_at_the_same_time_one_is_told(settings: Settings) -> None:
    first, second = units = two_units(settings)
    for unit in units:
        fuse(settings, unit, cut_off)
        judge(settings, unit)
    others: list[list[str]] = []

    def send() -> bool:
        others.append(told(settings, second, "run 1"))  # by another task, which does not wait for the webhook
        return True

    gate_tasks.tell_once(settings, first, "run 1", send)
    assert others == [[]]
    assert told(settings, second, "run 1") == []


def test_without_airflow_the_gate_fails_the_unit(settings: Settings, unit: Unit) -> None:
    with pytest.raises(InputError, match="No caption of the unit is loaded"):
        unit_tasks.validate(settings, unit)
    assert numbers_in(settings, "rejected_captions") == []
