"""Judging captions in a real browser: nothing that a user has typed is lost, and the last judgement counts."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.explorer.conftest import Held, view

pytestmark = pytest.mark.timeout(120)

GONE = {"status": 503, "json": {"detail": "the warehouse went away"}}


@pytest.fixture
def dialog(page: Page) -> Locator:
    """The dialog with the first of the rejected captions."""
    view(page, view="captions", verdict="rejected")
    expect(page.locator("#captions-status")).to_contain_text("of 20")
    page.locator("tbody tr").first.click()
    dialog = page.locator("dialog#caption")
    expect(dialog.get_by_role("button", name="Good")).to_be_visible()
    return dialog


def test_a_judgement_that_is_not_saved_keeps_the_note(page: Page, dialog: Locator) -> None:
    note, alert = dialog.get_by_label("Note"), dialog.get_by_role("alert")
    bad = dialog.get_by_role("button", name="Bad")
    held = Held(page, "**/judgement")
    note.fill("ends in")
    bad.click()
    held.give(0, **GONE)
    expect(alert).to_have_text("the warehouse went away")
    expect(note).to_have_value("ends in")
    expect(bad).to_be_focused()
    page.keyboard.press("3")
    note.focus()
    page.keyboard.press("End")
    page.keyboard.type(" the middle")
    held.give(1)
    expect(bad).to_have_attribute("aria-pressed", "true")
    expect(alert).to_have_count(0)
    expect(note).to_have_value("ends in the middle")
    page.keyboard.press("Enter")
    held.give(2, **GONE)
    expect(alert).to_have_text("the warehouse went away")
    expect(note).to_be_focused()
    page.keyboard.press("Enter")
    held.give(3)
    expect(dialog.locator(".said")).to_have_text(re.compile("Bad you, .*: ends in the middle"))
    expect(dialog).to_be_focused()
    dialog.get_by_role("button", name="Withdraw").click()
    held.give(4)
    expect(note).to_have_value("")


def test_a_judgement_that_is_not_saved_after_the_user_went_on_is_told(page: Page, dialog: Locator) -> None:
    fused = dialog.locator(".fused")
    first = fused.inner_text()
    held = Held(page, "**/judgement")
    dialog.get_by_label("Note").fill("ends in the middle")
    dialog.get_by_role("heading", name="Scores").click()  # leaves the note
    page.keyboard.press("3")
    page.keyboard.press("ArrowRight")
    expect(fused).not_to_have_text(first)
    # When the details arrive, the dialog grows and the button below moves. A click in this moment would be lost.
    expect(dialog).to_have_attribute("aria-busy", "false")
    held.give(0, **GONE)
    expect(dialog.get_by_role("alert")).to_contain_text("the warehouse went away")
    dialog.get_by_role("button", name="Show the caption").click()
    expect(fused).to_have_text(first)
    expect(dialog.get_by_label("Note")).to_have_value("ends in the middle")
    page.keyboard.press("2")
    page.keyboard.press("Escape")
    held.give(1, **GONE)
    page.get_by_role("alert").get_by_role("button", name="Show the caption").click()
    expect(fused).to_have_text(first)
    expect(page.get_by_role("alert")).to_have_text("the warehouse went away")


def test_of_two_judgements_the_last_is_kept(page: Page, dialog: Locator) -> None:
    held = Held(page, "**/judgement")
    page.keyboard.press("3")
    page.keyboard.press("1")
    held.give(0)
    held.give(1)
    assert [body["verdict"] for body in held.bodies()] == ["bad", "good"]
    expect(dialog.get_by_role("button", name="Good")).to_have_attribute("aria-pressed", "true")
    expect(dialog.locator(".said")).to_have_text(re.compile("^Good you"))
