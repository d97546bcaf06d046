"""The captions view in a real browser: keyboard, hostile captions, empty states, errors, colours."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from sqlalchemy import create_engine, text

from capsfusion_tasks.settings import Settings
from tests.conftest import plain_url
from tests.explorer.conftest import HOSTILE, RUN, view

pytestmark = pytest.mark.timeout(120)


def focused(page: Page) -> int:
    """The index of the table row that has the focus. The first row is 0."""
    return int(page.evaluate("[...document.querySelectorAll('tbody tr')].indexOf(document.activeElement)"))


def test_the_keyboard_does_everything(page: Page) -> None:
    view(page, view="captions", verdict="any")
    expect(page.locator("#captions-status")).to_have_text("1 to 25 of 60 captions, newest first")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert focused(page) == 1
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert focused(page) == 1, "the focus is where it was"
    page.keyboard.press("ArrowRight")
    expect(page.locator("#captions-status")).to_contain_text("page 2")
    page.keyboard.press("ArrowRight")
    expect(page.locator("tbody tr")).to_have_count(10)
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#captions-status")).to_contain_text("page 2")
    page.keyboard.press("/")
    page.keyboard.type('"57 with a bicycle"')
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("laion_2b 57 with a bicycle")


def test_captions_are_judged_one_after_the_other_by_keys(page: Page) -> None:
    page.goto(f"{page.url.partition('?')[0]}?view=captions&verdict=rejected")
    page.locator("tbody tr").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".findings")).to_contain_text("truncated")
    first = str(dialog.locator(".fused").inner_text())
    with page.expect_request("**/judgement") as sent:
        page.keyboard.press("3")
    assert sent.value.post_data_json == {"verdict": "bad", "note": "", "shown": first}
    expect(dialog.get_by_role("button", name="Bad")).to_have_attribute("aria-pressed", "true")
    dialog.get_by_label("Note").fill("ends in the middle")
    page.keyboard.press("Enter")
    expect(dialog.locator(".said")).to_contain_text(re.compile("Bad you, .*: ends in the middle"))
    dialog.get_by_role("heading", name="Scores").click()  # leaves the note
    page.keyboard.press("ArrowRight")
    expect(dialog.locator(".fused")).not_to_have_text(first)
    expect(dialog.get_by_role("button", name="Bad")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("ArrowLeft")
    expect(dialog.get_by_label("Note")).to_have_value("ends in the middle")
    page.keyboard.press("Escape")
    expect(page.locator("tbody tr").first.locator(".badge.bad")).to_have_text("Bad: ada")
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Withdraw").click()
    expect(dialog.locator(".said")).to_have_count(0)


def test_an_image_is_loaded_only_when_asked_for(chromium: Browser, site: str, settings: Settings) -> None:
    engine = create_engine(plain_url(settings))
    with engine.begin() as connection:
        one = "pair_id = (select pair_id from capsfusion.fused_captions order by pair_id desc limit 1)"
        update = f"update capsfusion.fused_captions set image_url = 'http://127.0.0.1:9/a.jpg' where {one}"
        connection.execute(text(update))
        pair_id = connection.scalar(text(f"select laion_2b from capsfusion.fused_captions where {one}"))
    engine.dispose()
    asked: list[str] = []
    with chromium.new_context() as context:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{site}?view=captions&verdict=any")
        page.locator("tbody tr").filter(has_text=str(pair_id)).first.click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("link", name="http://127.0.0.1:9/a.jpg")).to_have_attribute(
            "rel", "noopener noreferrer"
        )
        assert "http://127.0.0.1:9/a.jpg" not in asked
        dialog.get_by_role("button", name="Show image").click()
        expect(dialog.get_by_role("button", name="Copy")).to_be_focused()
        expect(dialog.frame_locator("iframe").get_by_role("img", name="The image could not be loaded.")).to_be_visible()
    assert "http://127.0.0.1:9/a.jpg" in asked, "the frame's own policy allows the image"


def test_hostile_captions_are_text_and_nothing_else(page: Page) -> None:
    view(page, view="captions", verdict="any")
    expect(page.locator("#captions-status")).to_contain_text("of 60 captions")
    shown = ""
    for _ in range(3):  # pages
        shown += page.locator("tbody").inner_text()
        page.keyboard.press("ArrowRight")
        page.wait_for_load_state("networkidle")
    assert all(text in shown for text in HOSTILE[:5])
    page.goto(f"{page.url.partition('?')[0]}?view=captions&shard=laion_2b_shard%200")
    page.locator("tbody tr").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Where it comes from")
    assert dialog.inner_text().count(HOSTILE[0]) == 6, "three captions, the image's address, and the paths of two files"
    assert dialog.locator("img, script, svg").count() == 0
    page.goto(f"{page.url.partition('?')[0]}?view=runs")
    expect(page.locator("#figures .problem")).to_contain_text(HOSTILE[0])
    assert page.title() == "Captions"


def test_what_cannot_be_seen_is_named_and_turns_nothing_around_it(page: Page) -> None:
    page.goto(f"{page.url.partition('?')[0]}?view=captions&words=bell")
    row = page.locator("tbody tr")
    expect(row).to_have_count(1)
    for code in ("U+202E", "U+0007", "U+001B"):
        expect(row.locator("td").first).to_contain_text(code)
    page.goto(f"{page.url.partition('?')[0]}?view=captions&words=world")
    expect(page.locator("tbody tr td").last.locator("bdi")).to_have_css("direction", "rtl")


def test_words_have_the_colour_of_their_source(page: Page) -> None:
    page.goto(f"{page.url.partition('?')[0]}?view=captions&words=bicycle")
    fused = page.locator("tbody tr").first.locator("td").last
    expect(fused.locator(".both").last).to_have_text("bicycle")
    expect(fused.locator(".novel").first).to_have_text("capsfusion")


def test_a_filter_without_a_match_and_one_without_sense_say_so(page: Page) -> None:
    page.get_by_role("searchbox").fill("elephant")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("No caption matches this filter.")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("tbody tr")).to_have_count(25)
    page.goto(f"{page.url.partition('?')[0]}?view=captions&day=yesterday")
    expect(page.get_by_role("status")).to_contain_text("day: ")


def test_accepted_captions_come_first_and_facets_count_and_filter(page: Page) -> None:
    facets = page.get_by_role("group", name="Facets")
    expect(page.locator("#captions-status")).to_have_text("1 to 25 of 40 captions, newest first")
    expect(page.locator("tbody tr.rejected")).to_have_count(0)
    facets.get_by_role("button", name="rejected 20").click()
    expect(page.locator("#captions-status")).to_have_text("1 to 20 of 20 captions, newest first")
    facets.get_by_role("button", name="2026-11-10").click()
    expect(page.get_by_label("Day of the interval")).to_have_value("2026-11-10")
    facets.get_by_label("Histogram of").select_option("novelty")
    facets.get_by_role("button", name="0.5 to 0.55: 20").click()
    expect(page.locator("tbody tr")).to_have_count(20)
    expect(facets.get_by_role("button", name="0.5 to 0.55: 20")).to_have_attribute("aria-pressed", "true")
    assert "score=novelty&score_min=0.5&score_below=0.55" in page.url
    facets.get_by_role("button", name="any ✕").click()
    facets.get_by_role("button", name="2026-11-10").click()
    facets.get_by_role("button", name="rejected").click()
    expect(page.locator("#captions-status")).to_contain_text("of 60 captions")


def test_a_reason_goes_with_the_verdict_rejected(page: Page) -> None:
    page.get_by_text("More", exact=True).click()
    reason, verdict = page.locator("select[name=reason]"), page.get_by_label("Verdict")
    replay, export = (page.get_by_role("button", name=f"{name} these…") for name in ("Replay", "Export"))
    reason.select_option("truncated")
    expect(page.locator("#captions-status")).to_contain_text("of 20 captions")
    expect(page).to_have_url(re.compile("verdict=rejected&reason=truncated"))
    expect(verdict).to_have_value("rejected")
    expect(replay).to_be_enabled()
    verdict.select_option("accepted")
    expect(page.locator("#captions-status")).to_contain_text("of 40 captions")
    expect(page).to_have_url(re.compile("verdict=accepted$"))
    expect(reason).to_have_value("")
    expect(export).to_be_enabled()
    view(page, view="captions", verdict="accepted", reason="truncated")
    expect(page.locator("#captions-status")).to_contain_text("of 20 captions")
    expect(verdict).to_have_value("rejected")
    expect(replay).to_be_enabled()
    expect(export).to_have_count(0)


def test_a_search_keeps_a_model_and_a_reason_that_the_form_does_not_offer(page: Page) -> None:
    view(page, view="captions", fusion_id="f0", reason="too_blue")
    expect(page.get_by_role("status")).to_contain_text("No caption matches this filter.")
    page.get_by_role("searchbox").fill("bicycle")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("words=bicycle"))
    assert "reason=too_blue&fusion_id=f0" in page.url
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("tbody tr")).to_have_count(25)
    expect(page.locator("#filter option.extra")).to_have_count(0)
    view(page, view="trends", fusion_id="f0")
    expect(page.get_by_label("Model").filter(visible=True)).to_have_value("f0")


def test_a_shift_click_extends_the_range_of_a_score_in_both_directions(page: Page) -> None:
    view(page, view="captions", verdict="any", score="novelty", score_min="0.4", score_below="0.45")
    facets = page.get_by_role("group", name="Facets")
    facets.get_by_label("Histogram of").select_option("novelty")
    for clicked, wanted in (
        ("0.5 to 0.55", "score_min=0.4&score_below=0.55"),
        ("0.3 to 0.35", "score_min=0.3&score_below=0.55"),
        ("0.45 to 0.5", "score_min=0.3&score_below=0.5"),
    ):
        facets.get_by_role("button", name=f"{clicked}: ").click(modifiers=["Shift"])
        expect(page).to_have_url(re.compile(wanted))
    view(page, view="captions", verdict="any", score="novelty", score_max="0.45")
    facets.get_by_label("Histogram of").select_option("novelty")
    facets.get_by_role("button", name="0.5 to 0.55: ").click(modifiers=["Shift"])
    expect(page).to_have_url(re.compile("score=novelty&score_below=0.55"))


def test_a_shift_click_before_the_new_counts_arrive_extends_the_newest_range(page: Page) -> None:
    view(page, view="captions", verdict="any", score="novelty", score_min="0.4", score_below="0.45")
    facets = page.get_by_role("group", name="Facets")
    facets.get_by_label("Histogram of").select_option("novelty")
    expect(facets.get_by_role("button", name="0.4 to 0.45: ")).to_have_attribute("aria-pressed", "true")
    page.route("**/api/facets*", lambda route: None)  # no counts arrive: the histogram stays as it is
    facets.get_by_role("button", name="0.3 to 0.35: ").click(modifiers=["Shift"])
    expect(page).to_have_url(re.compile("score_min=0.3&score_below=0.45"))
    facets.get_by_role("button", name="0.5 to 0.55: ").click(modifiers=["Shift"])
    expect(page).to_have_url(re.compile("score_min=0.3&score_below=0.55"))


def test_back_and_reload_keep_filter_and_caption(page: Page) -> None:
    view(page, view="captions", verdict="rejected")
    expect(page.locator("tbody tr")).to_have_count(20)
    page.locator("tbody tr").nth(2).click()
    dialog = page.locator("dialog#caption")
    expect(dialog).to_be_visible()
    shown = dialog.locator(".fused").inner_text()
    page.reload()
    expect(dialog.locator(".fused")).to_have_text(shown)
    page.keyboard.press("ArrowRight")
    expect(dialog.locator(".fused")).not_to_have_text(shown)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Runs").click()
    expect(page.locator("#figures")).to_contain_text("40 of 60")
    page.go_back()
    expect(page.locator("tbody tr")).to_have_count(20)
    expect(page.get_by_label("Verdict")).to_have_value("rejected")


def test_words_are_searched_where_they_are_wanted_and_parts_of_words_hinted(page: Page) -> None:
    page.get_by_label("Search in").select_option("raw")
    page.get_by_role("searchbox").fill("bicyc")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("These words begin with bicyc:")
    page.get_by_role("button", name="bicycle", exact=True).click()
    expect(page.locator("#captions-status")).to_contain_text("captions, newest first")
    assert "words=bicycle&within=raw" in page.url
    pair_id = "b52340b4de4566b804c9880aa0b4af5f"
    page.get_by_role("searchbox").fill(pair_id)
    page.keyboard.press("Enter")
    expect(page.get_by_label("Search in")).to_have_value("pair_id")
    assert f"pair_id={pair_id}" in page.url


def test_a_replay_of_the_filter_is_shown_then_started_in_airflow(page: Page) -> None:
    """A stub replaces Airflow; tests/airflow/test_captions_view.py starts a replay in a real Airflow."""
    asked: list[Any] = []

    def answer(route: Route) -> None:
        asked.append((route.request.method, route.request.url.partition("/api/v2/")[2], route.request.post_data_json))
        route.fulfill(json={"is_paused": len(asked) == 1, "dag_run_id": "manual__7"})

    page.route("**/api/v2/**", answer)
    view(page, view="captions", verdict="rejected", reason="truncated", words="bicycle")
    page.get_by_role("button", name="Replay these…").click()
    dialog = page.locator("dialog#start")
    expect(dialog).to_contain_text("17 rejected captions match.")
    dialog.get_by_label("Beams").fill("5")
    dialog.get_by_text("What will run").click()
    expect(dialog.get_by_label("Params of the run")).to_contain_text('"num_beams": 5')
    button = dialog.get_by_role("button", name="Replay these")
    button.evaluate("button => { button.click(); button.click(); }")  # two quick clicks start one run
    link = dialog.get_by_role("link", name="manual__7")
    assert str(link.get_attribute("href")).endswith("/dags/capsfusion_replay/runs/manual__7")
    params = {"filter": {"words": "bicycle", "reason": "truncated"}, "fusion_id": "f1", "num_beams": 5}
    assert asked == [
        ("GET", "dags/capsfusion_replay", None),
        ("PATCH", "dags/capsfusion_replay?update_mask=is_paused", {"is_paused": False}),
        ("POST", "dags/capsfusion_replay/dagRuns", {"logical_date": None, "conf": params}),
    ]


def test_an_export_that_airflow_refuses_says_why(page: Page) -> None:
    page.route("**/api/v2/dags/capsfusion_export", lambda route: route.fulfill(json={"is_paused": False}))
    page.route("**/api/v2/**/dagRuns", lambda route: route.fulfill(status=403, json={"detail": "Forbidden"}))
    page.get_by_role("button", name="Export these…").click()
    dialog = page.locator("dialog#start")
    expect(dialog).to_contain_text("40 accepted captions match.")
    dialog.get_by_label("Folder").fill("/shared/kept")
    dialog.get_by_role("button", name="Export these").click()
    expect(dialog.get_by_role("alert")).to_have_text("You have no permission in Airflow to do this.")
    expect(dialog.get_by_role("button", name="Export these")).to_be_enabled()


def test_trends_are_shown_by_day_and_lead_to_its_captions(page: Page) -> None:
    page.get_by_role("button", name="Trends").click()
    accepted = page.get_by_role("img", name=re.compile("^Accepted: 2026-11-10 demo f1 66.67%"))
    expect(accepted).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^Reasons .*truncated 33.33%"))).to_be_visible()
    accepted.locator("rect.reach").click()
    expect(page.locator("#captions-status")).to_contain_text("of 60 captions")
    expect(page.get_by_label("Day of the interval")).to_have_value("2026-11-10")


def test_a_narrow_window_shows_everything(page: Page) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    for name in ("captions", "runs", "trends"):
        view(page, view=name)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, name
    view(page, view="captions")
    expect(page.locator("tbody tr").first).to_be_visible()
    assert page.locator("#facets").get_attribute("open") is None


def test_a_server_that_fails_or_refuses_is_told_and_can_be_asked_again(page: Page) -> None:
    said = {401: "log in to Airflow again", 403: "no permission", 503: "went away", 500: "answered 500"}
    statuses = iter(said)

    def answer(route: Route) -> None:
        status = next(statuses)
        route.fulfill(status=status, json={"detail": "the warehouse went away"} if status == 503 else {})

    page.route("**/api/captions*", answer)
    for expected in said.values():
        page.get_by_role("button", name="Search").click()
        expect(page.get_by_role("status")).to_contain_text(expected)
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("tbody tr")).to_have_count(25)


def test_a_run_is_found_from_its_caption_and_its_captions_from_the_run(page: Page) -> None:
    page.locator("tbody tr").first.click()
    link = page.get_by_role("dialog").get_by_role("link", name=RUN)
    assert str(link.get_attribute("href")).endswith("/dags/capsfusion/runs/backfill__2026-11-10T00%3A00%3A00%2B00%3A00")
    page.get_by_role("button", name="Figures of this run").click()
    figures = page.locator("#figures")
    expect(figures).to_contain_text("40 of 60 (66.67%)")
    expect(figures.locator("figure")).to_have_count(9)
    funnel = figures.get_by_role("figure", name="From shards to captions")
    expect(funnel.locator(".length.rejected")).not_to_have_count(0)
    expect(funnel).to_contain_text("already fused 25")
    expect(funnel).to_contain_text("left for a later run 5")
    page.get_by_role("button", name="Show rejected captions").click()
    expect(page.locator("tbody tr.rejected")).to_have_count(20)
    expect(page.locator("tbody tr.accepted")).to_have_count(0)


def test_a_replay_is_among_the_runs_and_has_a_page_of_its_own(page: Page) -> None:
    run = {
        "replay": "manual__1",
        "dag_run_id": "manual__1",
        "fusion_id": "f1",
        "interval_start": None,
        "interval_end": None,
    }
    counts = {"units": 1, "units_loaded": 1, "units_failed": 0, "rows_in": 5, "accepted": 4, "rejected": 1}

    def as_a_replay(route: Route) -> None:
        figures = route.fetch().json()
        route.fulfill(json={**figures, **run, "interval": None, "sides": {}, "found": None})

    page.route("**/api/runs", lambda route: route.fulfill(json=[{**run, **counts}]))
    page.route("**/api/figures*", as_a_replay)
    page.get_by_role("button", name="Runs").click()
    expect(page.locator("#run-list")).to_contain_text("Replay")
    expect(page.locator("#figures h2")).to_have_text("A replay of rejected captions")
    expect(page.locator("#figures")).to_contain_text("rejected before, replayed")
    link = page.locator("#figures").get_by_role("link", name="manual__1")
    assert str(link.get_attribute("href")).endswith("/dags/capsfusion_replay/runs/manual__1")


def test_only_captions_that_can_be_listed_are_offered(page: Page) -> None:
    """The list of captions has no filter for replays and intervals that ran without Airflow."""
    answer = {"replay": None, "dag_run_id": None, "fusion_id": "f1", "interval": None}
    page.route("**/api/figures*", lambda route: route.fulfill(json={**route.fetch().json(), **answer}))
    offered = page.locator("#figures").get_by_role("button", name=re.compile("^Show .*captions"))
    for run in ({"replay": "again"}, {"interval": {"start": "2026-11-10T00:00:00Z", "end": "2026-11-11T00:00:00Z"}}):
        answer |= {"replay": None, **run}
        view(page, view="runs", fusion_id="f1")
        expect(page.locator("#figures figure")).to_have_count(9)
        expect(offered).to_have_count(0)
    answer |= {"replay": None, "interval": None}
    view(page, view="runs", fusion_id="f1")
    offered.last.click()
    expect(page.locator("#captions-status")).to_contain_text("of 20 captions")
    expect(page).to_have_url(re.compile("fusion_id=f1&verdict=rejected$"))


def test_in_the_tab_of_a_run_captions_are_those_of_the_run(page: Page) -> None:
    page.goto(f"{page.url.partition('?')[0]}?view=runs&dag=capsfusion&dag_run_id={quote(RUN)}")
    expect(page.locator("#figures figure")).to_have_count(9)
    expect(page.locator("#run-list")).to_be_hidden()
    page.get_by_role("button", name="Captions", exact=True).click()
    expect(page.get_by_label("DAG run")).to_have_value(RUN)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("tbody tr")).to_have_count(25)
    expect(page.get_by_label("DAG run")).to_have_value(RUN)
    page.get_by_role("button", name="Runs").click()
    expect(page.locator("#figures")).to_contain_text("40 of 60")


def test_on_the_page_of_another_dag_s_run_it_says_what_it_is_for(page: Page) -> None:
    page.goto(f"{page.url.partition('?')[0]}?view=runs&dag=another&dag_run_id=x")
    expect(page.locator("#figures")).to_contain_text("this is a run of another")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    expect(page.locator("html")).to_have_attribute("data-theme", scheme)
    names = ["--text", "--faint", "--raw", "--synthetic", "--novel", "--rejected"]
    read = "names => names.map(name => getComputedStyle(document.documentElement).getPropertyValue(name))"
    back, *fronts = page.evaluate(read, ["--back", *names])
    for name, front in zip(names, fronts, strict=True):
        assert contrast(front, back) >= 4.5, f"{name}: WCAG 2.2 asks for 4.5"


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, #rgb or #rrggbb, by WCAG 2.2."""

    def luminance(colour: str) -> float:
        digits = colour.strip().lstrip("#")
        digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)
