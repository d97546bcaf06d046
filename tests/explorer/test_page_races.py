"""The captions view in a real browser, when a user is faster than the server: only the newest request counts."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.explorer.conftest import Held, view

pytestmark = pytest.mark.timeout(120)

LIST = re.compile(r"/api/captions\?")
CAPTION = "**/api/captions/*/*"
FACETS = "**/api/facets*"


@pytest.fixture
def dialog(page: Page) -> Locator:
    """The dialog with a caption. The list shows the first 25 of 60 captions, which all have different texts."""
    view(page, view="captions", verdict="any")
    expect(page.locator("#captions-status")).to_contain_text("1 to 25 of 60")
    return page.locator("dialog#caption")


def texts(page: Page) -> list[str]:
    return [str(text) for text in page.locator("tbody td .fused").all_inner_texts()]


def judged(page: Page) -> list[str]:
    """A list to which each judgement adds the pair_id of its caption. The judgements do not reach the server."""
    pairs: list[str] = []

    def answer(route: Route) -> None:
        pairs.append(route.request.url.split("/")[-3])
        route.fulfill(json={})

    page.route("**/judgement", answer)
    return pairs


def noted(page: Page) -> str | None:
    """The pair_id of the caption in the address."""
    found = re.search(r"caption=([0-9a-f-]+)", page.url)
    return found and found[1]


def test_of_two_steps_the_last_counts_and_keys_judge_only_the_caption_that_is_shown(
    page: Page, dialog: Locator
) -> None:
    fused = texts(page)
    page.locator("tbody tr").first.click()
    good = dialog.get_by_role("button", name="Good")
    expect(good).to_be_visible()
    pairs = judged(page)
    held = Held(page, CAPTION)
    for step in range(2):
        page.keyboard.press("ArrowRight")
        held.wait(step)
    expect(dialog.locator(".fused")).to_have_text(fused[2])
    page.keyboard.press("1")
    held.give(1)
    expect(good).to_have_attribute("aria-pressed", "false")
    held.give(0)
    expect(dialog.locator(".fused")).to_have_text(fused[2])
    page.keyboard.press("3")
    expect(dialog.get_by_role("button", name="Bad")).to_have_attribute("aria-pressed", "true")
    assert pairs == [noted(page)]


def test_esc_before_the_answer_keeps_the_caption_closed(page: Page, dialog: Locator) -> None:
    held = Held(page, CAPTION)
    page.locator("tbody tr").first.click()
    held.wait(0)
    page.keyboard.press("Escape")
    held.give(0)
    expect(dialog).to_be_hidden()
    assert noted(page) is None
    page.locator("tbody tr").first.click()
    held.wait(1)
    page.keyboard.press("ArrowRight")
    held.wait(2)
    page.keyboard.press("Escape")
    held.give(1)
    held.give(2)
    expect(dialog).to_be_hidden()
    assert noted(page) is None
    assert page.evaluate("document.activeElement === document.querySelectorAll('tbody tr')[1]")


def test_while_the_list_turns_its_page_no_caption_is_judged_and_more_steps_wait(page: Page, dialog: Locator) -> None:
    page.locator("tbody tr").last.click()
    expect(dialog.get_by_role("button", name="Good")).to_be_visible()
    pairs = judged(page)
    held = Held(page, LIST)
    for key in ("ArrowRight", "1", "ArrowRight", "ArrowLeft", "1"):
        page.keyboard.press(key)
    held.give(0)
    expect(page.locator("#captions-status")).to_contain_text("26 to 50 of 60")
    expect(dialog.locator(".fused")).to_have_text(texts(page)[0])
    page.keyboard.press("ArrowLeft")
    held.wait(1)
    page.keyboard.press("Escape")
    held.give(1)
    expect(page.locator("#captions-status")).to_contain_text("1 to 25 of 60")
    expect(dialog).to_be_hidden()
    assert noted(page) is None
    assert pairs == []
    page.locator("tbody tr").last.click()
    page.keyboard.press("ArrowRight")
    held.give(2, status=503, json={"detail": "the warehouse went away"})
    expect(dialog).to_be_hidden()
    expect(page.locator("#captions-status")).to_contain_text("the warehouse went away")


def test_another_view_closes_the_caption_and_ends_its_request(page: Page, dialog: Locator) -> None:
    figures = page.locator("#figures")
    page.get_by_role("button", name="Runs").click()
    expect(figures).to_contain_text("40 of 60")
    for answered in (True, False):
        view(page, view="captions", verdict="any")
        expect(page.locator("tbody tr")).to_have_count(25)
        page.get_by_role("button", name="Trends").click()
        page.go_back()
        held = Held(page, CAPTION)
        page.locator("tbody tr").first.click()
        expect(dialog).to_be_visible()
        if answered:
            held.give(0)
            expect(dialog).to_contain_text("Where it comes from")
        page.go_forward()
        expect(page.locator("#trends figure")).to_have_count(4)
        if not answered:
            held.give(0)
        expect(dialog).to_be_hidden()
        page.keyboard.press("ArrowRight")
        assert noted(page) is None, "the address of the trends names no caption"
        held.stop()


def test_a_newer_filter_keeps_the_caption_of_the_older_one_closed(page: Page, dialog: Locator) -> None:
    page.locator("tbody tr").first.click()
    caption = f"{noted(page)} f1"
    for pattern in (LIST, "**/api/choices"):
        held = Held(page, pattern)
        view(page, view="captions", verdict="any", caption=caption)
        held.wait(0)
        page.get_by_label("Verdict").select_option("rejected")
        expect(page).to_have_url(re.compile("verdict=rejected"))
        if pattern == LIST:
            held.give(1)
        held.give(0)
        expect(page.locator("tbody tr")).to_have_count(20)
        expect(dialog).to_be_hidden()
        assert noted(page) is None
        held.stop()


def test_pages_are_turned_once_for_each_press(page: Page, dialog: Locator) -> None:
    status = page.locator("#captions-status")
    held = Held(page, LIST)
    page.get_by_role("button", name="Older").evaluate("button => { button.click(); button.click(); }")
    held.give(0)
    expect(status).to_have_text("26 to 50 of 60 captions, page 2, newest first")
    for number, key in ((1, "ArrowRight"), (2, "ArrowLeft")):
        page.keyboard.press(key)
        held.wait(number)
    held.give(2)
    held.give(1)
    expect(status).to_have_text("26 to 50 of 60 captions, page 2, newest first")
    page.keyboard.press("ArrowRight")
    held.give(3)
    expect(status).to_have_text("51 to 60 of 60 captions, page 3, newest first")
    for number in (4, 5):
        page.keyboard.press("ArrowLeft")
        held.wait(number)
    held.give(5)
    expect(status).to_have_text("1 to 25 of 60 captions, newest first")
    expect(page.get_by_role("button", name="Newer")).to_be_disabled()


def test_a_new_filter_does_not_begin_at_a_page_of_the_old_one(page: Page, dialog: Locator) -> None:
    held = Held(page, LIST)
    page.get_by_label("Verdict").select_option("accepted")
    page.get_by_label("Verdict").blur()
    page.keyboard.press("ArrowRight")
    held.give(0)
    expect(page.locator("#captions-status")).to_have_text("1 to 25 of 40 captions, newest first")
    expect(page.get_by_role("button", name="Older")).to_be_enabled()


def test_arrows_work_wherever_the_focus_is(page: Page, dialog: Locator) -> None:
    fused = texts(page)
    page.locator("tbody tr").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "caption"
    older = dialog.get_by_role("button", name="Next")
    older.click()
    expect(dialog.locator(".fused")).to_have_text(fused[1])
    expect(older).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog.locator(".fused")).to_have_text(fused[2])
    page.keyboard.press("ArrowRight")
    expect(dialog.locator(".fused")).to_have_text(fused[3])
    dialog.get_by_role("button", name="Captions of this run").focus()
    page.keyboard.press("ArrowRight")
    expect(dialog.locator(".fused")).to_have_text(fused[4])
    assert page.evaluate("document.activeElement.id") == "caption"


def test_the_start_of_a_run_counts_for_the_model_that_was_chosen_last(page: Page, dialog: Locator) -> None:
    del dialog
    answer = page.request.get(page.url.partition("?")[0] + "api/facets").json()
    answer["fusions"] = [{"value": name, "captions": 1} for name in ("f1", "f2", "f3")]
    page.route(FACETS, lambda route: route.fulfill(json=answer))
    page.route("**/api/v2/**", lambda route: route.fulfill(json={"is_paused": False}))
    page.reload()
    page.get_by_role("button", name="Replay these…").click()
    start = page.locator("dialog#start")
    expect(start).to_contain_text("60 rejected captions match.")
    held = Held(page, FACETS)
    for number, model in enumerate(("f2", "f3")):
        start.get_by_label("Captions of fusion").select_option(model)
        expect(start).to_contain_text("… rejected captions match.")
        held.wait(number)
    held.give(1, json={**answer, "total": {"captions": 33, "exact": True}})
    held.give(0, json={**answer, "total": {"captions": 22, "exact": True}})
    expect(start).to_contain_text("33 rejected captions match.")


def test_a_run_is_not_offered_over_another_view(page: Page, dialog: Locator) -> None:
    del dialog
    held = Held(page, "**/api/v2/**")
    page.get_by_role("button", name="Replay these…").click()
    held.wait(0)
    page.get_by_role("button", name="Runs").click()
    held.give(0, json={"is_paused": False})
    expect(page.locator("#figures")).to_contain_text("40 of 60")
    expect(page.locator("dialog#start")).to_be_hidden()
    page.go_back()
    page.get_by_role("button", name="Replay these…").click()
    held.give(1, json={"is_paused": False})
    expect(page.locator("dialog#start")).to_be_visible()
    page.go_forward()
    expect(page.locator("dialog#start")).to_be_hidden()
