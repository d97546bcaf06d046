"""The routes of the captions view, with a real warehouse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import HTTPException
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text

from capsfusion_tasks.explorer.app import create_app
from capsfusion_tasks.schemas import Replay, Unit
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.validation.rules import RULES
from capsfusion_tasks.warehouse import fusions, ledger
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from capsfusion_tasks.warehouse.load import load_unit
from tests.conftest import login, plain_url
from tests.explorer.conftest import AGAIN, HOSTILE, RUN
from tests.warehouse.conftest import FUSION, plan, rows


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(guard=lambda: None, judge=lambda: "ada", settings=lambda: settings)) as client:
        yield client


def get(client: TestClient, path: str, **parameters: Any) -> Any:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_every_route_is_behind_the_guard() -> None:
    def refuse() -> None:
        raise HTTPException(401, "who are you?")

    def unreachable() -> Settings:
        raise AssertionError("the warehouse was queried for a user without access")

    app = create_app(guard=refuse, judge=lambda: "", settings=unreachable)
    assert all(isinstance(route, APIRoute) for route in app.routes), "a mount or FastAPI's own page has no guard"
    routes = [(route.path, method) for route in app.routes if isinstance(route, APIRoute) for method in route.methods]
    assert {"/", "/static/{name}", "/api/captions", "/api/figures"} <= {path for path, _ in routes}
    with TestClient(app) as client:
        for path, method in routes:
            full = path.format(name="main.js", pair_id="00000000-0000-0000-0000-000000000000", fusion_id="f1")
            assert client.request(method, full, json={"verdict": "good"}).status_code == 401, (method, path)


def test_who_may_not_judge_may_read_only(settings: Settings) -> None:
    def refuse() -> str:
        raise HTTPException(403, "you may not edit")

    app = create_app(guard=lambda: None, judge=refuse, settings=lambda: settings)
    with TestClient(app) as client:
        row = get(client, "/api/captions", limit=1)["rows"][0]
        path = f"/api/captions/{row['pair_id']}/f1"
        assert client.get("/api/judge").status_code == 403
        assert client.put(f"{path}/judgement", json={"verdict": "bad"}).status_code == 403
        assert client.delete(f"{path}/judgement").status_code == 403
        assert get(client, path)["judgements"] == []


def test_a_caption_is_judged_again_and_the_judgement_withdrawn(client: TestClient) -> None:
    row = get(client, "/api/captions", verdict="accepted", limit=1)["rows"][0]
    path = f"/api/captions/{row['pair_id']}/f1"
    for verdict, note in (("good", ""), ("bad", "two bicycles")):
        assert client.put(f"{path}/judgement", json={"verdict": verdict, "note": note}).status_code == 200
    [judgement] = get(client, path)["judgements"]
    said = {name: judgement[name] for name in ("judged_by", "verdict", "note", "outdated")}
    assert said == {"judged_by": "ada", "verdict": "bad", "note": "two bicycles", "outdated": False}
    assert get(client, "/api/captions", verdict="accepted", limit=1)["rows"][0]["judgements"] == [judgement]
    assert client.delete(f"{path}/judgement").status_code == 200
    assert get(client, path)["judgements"] == []


@pytest.mark.parametrize(
    "said", [{}, {"verdict": "great"}, {"verdict": "good", "note": "a\x00b"}, {"verdict": "bad", "x": 1}]
)
def test_a_judgement_that_makes_no_sense_is_refused(client: TestClient, said: dict[str, Any]) -> None:
    path = f"/api/captions/{get(client, '/api/captions', limit=1)['rows'][0]['pair_id']}/f1/judgement"
    assert client.put(path, json=said).status_code == 422


def test_a_caption_that_is_not_there_cannot_be_judged(client: TestClient) -> None:
    path = "/api/captions/00000000-0000-0000-0000-000000000000/f1/judgement"
    assert client.put(path, json={"verdict": "good"}).status_code == 404


def test_a_caption_that_was_replaced_while_it_was_shown_is_not_judged(warehouse_url: str) -> None:
    settings = Settings(warehouse_url=warehouse_url)
    with (
        open_warehouse(settings) as warehouse,
        TestClient(create_app(guard=lambda: None, judge=lambda: "ada", settings=lambda: settings)) as client,
    ):
        plan(warehouse, ("u1", 1), ("u2", 1))
        load_unit(warehouse, "u1", rows(1))
        [shown] = get(client, "/api/captions")["rows"]
        load_unit(warehouse, "u2", rows(1, capsfusion="another text"), replace=True)
        path = f"/api/captions/{shown['pair_id']}/f1"
        answer = client.put(f"{path}/judgement", json={"verdict": "good", "shown": shown["capsfusion"]})
        assert answer.status_code == 409
        assert "was not saved, because another caption of this pair has been loaded" in answer.json()["detail"]
        assert get(client, path)["judgements"] == []
        for seen in ({"shown": "another text"}, {"shown": None}, {}):
            answer = client.put(f"{path}/judgement", json={"verdict": "bad", **seen})
            assert answer.json() == {"judged_by": "ada", "verdict": "bad", "note": ""}
        [judgement] = get(client, path)["judgements"]
        assert (judgement["verdict"], judgement["outdated"]) == ("bad", False)


def test_a_login_that_may_only_read_is_told_who_can_grant_the_right(
    settings: Settings, client: TestClient, postgres: EmbeddedPostgres
) -> None:
    path = f"/api/captions/{get(client, '/api/captions', limit=1)['rows'][0]['pair_id']}/f1/judgement"
    reader = Settings(warehouse_url=login(postgres, plain_url(settings), "capsfusion_reader"))
    with TestClient(create_app(guard=lambda: None, judge=lambda: "ada", settings=lambda: reader)) as limited:
        assert len(get(limited, "/api/captions", limit=1)["rows"]) == 1
        answer = limited.put(path, json={"verdict": "good"})
    assert answer.status_code == 503
    assert "may not write judgements" in answer.json()["detail"]


def test_a_caption_says_why_it_has_its_flags_and_marks_the_words(settings: Settings, client: TestClient) -> None:
    row = get(client, "/api/captions", words="bicycle", verdict="accepted", limit=1)["rows"][0]
    engine = create_engine(plain_url(settings))
    with engine.begin() as connection:
        update = "update capsfusion.fused_captions set flags = :flags, capsfusion = :caption where pair_id = :pair_id"
        caption = "A bicycle from shop IMG_1234.jpg."
        connection.execute(text(update), {"flags": ["file_name"], "caption": caption, "pair_id": row["pair_id"]})
    engine.dispose()
    found = get(client, f"/api/captions/{row['pair_id']}/f1")
    [finding] = found["findings"]
    assert (finding["code"], finding["rejects"], finding["found"]) == ("file_name", False, ["IMG_1234.jpg"])
    assert "file" in finding["meaning"]
    assert "".join(piece for piece, _, _ in found["pieces"]) == caption
    assert "".join(piece for piece, _, is_marked in found["pieces"] if is_marked) == "IMG_1234.jpg"


def test_the_page_runs_its_own_code_only_and_may_be_framed_by_its_own_site_only(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'self'" in policy
    assert "unsafe" not in policy
    assert client.get("/static/main.js").headers["content-type"].startswith("text/javascript")


def test_no_file_but_the_page_s_own_is_served(client: TestClient) -> None:
    for name in ("index.html", "app.py", "..%2Fapp.py", "%2Fetc%2Fpasswd", "nothing"):
        assert client.get(f"/static/{name}").status_code == 404


def test_pages_follow_one_another_to_the_end(client: TestClient) -> None:
    seen: list[str] = []
    after = None
    while True:
        page = get(client, "/api/captions", limit=25, **({"after": after} if after else {}))
        seen += [row["pair_id"] for row in page["rows"]]
        if (after := page["following"]) is None:
            break
    assert len(seen) == len(set(seen)) == 60


def test_captions_come_filtered_and_in_pieces(client: TestClient) -> None:
    found = get(client, "/api/captions", words="bicycle", verdict="rejected", reason="truncated", dag_run_id=RUN)
    assert len(found["rows"]) == 17
    assert all(row["reasons"] == ["truncated"] for row in found["rows"])
    row = found["rows"][0]
    assert "".join(text for text, _ in row["pieces"]) == row["capsfusion"]
    assert ["bicycle", "both"] in row["pieces"]


def test_facets_count_what_a_filter_finds(client: TestClient) -> None:
    found = get(client, "/api/facets", verdict="accepted", histogram="novelty")
    assert found["total"] == {"captions": 40, "exact": True}
    assert found["verdicts"]["rejected"] == {"captions": 20, "exact": True}
    assert found["reasons"] == [{"value": "truncated", "captions": 20}]
    assert found["days"] == [{"value": "2026-11-10", "captions": 40}]
    assert found["bins"][10] == {"start": 0.5, "end": 0.55, "captions": 40}
    assert found["total"]["captions"] == len(get(client, "/api/captions", verdict="accepted", limit=200)["rows"])
    bounds = {"score": "novelty", "score_min": 0.5, "score_below": 0.55}
    assert get(client, "/api/facets", verdict="accepted", **bounds)["total"]["captions"] == 40


def test_trends_have_a_row_for_each_day_and_fusion(client: TestClient) -> None:
    found = get(client, "/api/trends")
    day = {"day": "2026-11-10", "fusion_id": "f1", "accepted": 40, "rejected": 20, "gpu_seconds": None}
    assert found == {"days": [day], "reasons": {"2026-11-10": {"truncated": 1.0}}}
    assert get(client, "/api/trends", fusion_id="f2") == {"days": [], "reasons": {}}


def test_a_search_that_finds_nothing_says_why(client: TestClient) -> None:
    assert get(client, "/api/captions", words="the")["hint"] == {"ignored": ["the"], "longer": {}}
    assert get(client, "/api/captions", words="bicyc")["hint"]["longer"] == {"bicyc": ["bicycle"]}
    assert get(client, "/api/captions", words="bicycle")["hint"] is None


def test_a_caption_comes_with_its_lineage(client: TestClient) -> None:
    rows = get(client, "/api/captions", limit=100)["rows"]
    hostile = next(row for row in rows if row["capsfusion"] == HOSTILE[0])
    found = get(client, f"/api/captions/{hostile['pair_id']}/f1")
    assert found["laion_2b_file"]["path"] == HOSTILE[0]
    assert found["unit"]["unit_id"] == "u1"
    assert found["laion_hash"] == "0", "as text: it has 64 bits"
    assert client.get(f"/api/captions/{hostile['pair_id']}/another").status_code == 404


def test_the_figures_of_a_run_and_of_everything(client: TestClient) -> None:
    run = get(client, "/api/figures", dag_run_id=RUN)
    assert (run["summary"]["rows_in"], run["summary"]["accepted"], run["summary"]["rejected"]) == (70, 40, 20)
    assert run["sides"]["laion_2b"]["dropped"] == {"unsafe": 7, HOSTILE[0]: 1}
    assert run["distributions"]["reasons"] == {"truncated": 20}
    assert run["progress"]["seconds_left"] > 0
    assert run["found"] == {"pairs": 100, "already_fused": 25, "left": 5, "gone": 0}
    assert get(client, "/api/figures")["summary"] == run["summary"]
    interval = run["interval"]
    assert get(client, "/api/figures", **interval)["summary"] == run["summary"]
    assert client.get("/api/figures", params={"dag_run_id": "another"}).status_code == 404
    assert [each["dag_run_id"] for each in get(client, "/api/runs")] == [RUN]


def test_a_run_that_planned_nothing_says_what_it_found(client: TestClient) -> None:
    run = get(client, "/api/figures", dag_run_id=AGAIN)
    assert run["found"] == {"pairs": 100, "already_fused": 100, "left": 0, "gone": 0}
    assert run["summary"]["units"] == 0
    assert run["interval"] == get(client, "/api/figures", dag_run_id=RUN)["interval"]


def test_a_replay_has_figures_and_no_shards(warehouse_url: str) -> None:
    settings = Settings(warehouse_url=warehouse_url)
    with open_warehouse(settings) as warehouse:
        plan(warehouse, ("u1", 2))
        load_unit(warehouse, "u1", rows(1, 2, rejected={1: ["truncated"], 2: ["copy"]}))
        with warehouse.engine.begin() as connection:
            fusions.register(connection, FUSION.model_copy(update={"fusion_id": "f2"}), {})
            unit = Unit(unit_id="r1", fusion_id="f2", rows=2, tokens=200)
            ledger.register_units(connection, [unit], Replay(name="manual__1", fusion_id="f1"), "manual__1")
        load_unit(warehouse, "r1", rows(1, 2, rejected={2: ["copy"]}), "manual__1")
    client = TestClient(create_app(guard=lambda: None, judge=lambda: "ada", settings=lambda: settings))
    replay, day = get(client, "/api/runs")
    assert (replay["replay"], replay["interval_start"], replay["rows_in"]) == ("manual__1", None, 2)
    assert day["replay"] is None
    for key in ({"replay": "manual__1"}, {"dag_run_id": "manual__1"}):
        found = get(client, "/api/figures", **key)
        assert (found["interval"], found["sides"], found["found"]) == (None, {}, None)
        assert (found["summary"]["accepted"], found["summary"]["rejected"]) == (1, 1)


def test_the_form_is_offered_all_reasons(client: TestClient) -> None:
    choices = get(client, "/api/choices")
    assert choices["reasons"] == [rule.__name__ for rule in RULES]
    assert [fusion["fusion_id"] for fusion in choices["fusions"]] == ["f1"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"words": "a\x00b"},
        {"verdict": "maybe"},
        {"day": "yesterday"},
        {"within": "url", "words": "x"},
        {"pair_id": "12"},
        {"score": "beauty", "score_min": 1},
        {"score": "novelty", "score_min": "nan"},
        {"after": "nonsense"},
        {"limit": 100_000},
        {"or": "1=1"},
        {"words": "x" * 2000},
    ],
    ids=lambda parameters: ", ".join(parameters),
)
def test_what_makes_no_sense_is_refused(client: TestClient, parameters: dict[str, Any]) -> None:
    answer = client.get("/api/captions", params=parameters)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["msg"]


def test_half_an_interval_is_refused(client: TestClient) -> None:
    assert client.get("/api/figures", params={"start": "2026-11-10"}).status_code == 422


def test_a_score_that_is_no_number_can_be_shown(settings: Settings, client: TestClient) -> None:
    engine = create_engine(plain_url(settings))
    with engine.begin() as connection:
        one = "pair_id = (select pair_id from capsfusion.fused_captions order by pair_id limit 1)"
        update = f"update capsfusion.fused_captions set similarity = 'NaN' where {one} returning pair_id"
        pair_id = connection.scalar(text(update))
    engine.dispose()
    assert get(client, f"/api/captions/{pair_id}/f1")["similarity"] is None


def test_a_warehouse_that_is_not_there_is_said_and_asked_again(settings: Settings) -> None:
    found = [Settings(warehouse_url="postgresql://nobody@127.0.0.1:1/nothing"), settings]
    with TestClient(create_app(guard=lambda: None, judge=lambda: "ada", settings=lambda: found.pop(0))) as client:
        answer = client.get("/api/runs")
        assert answer.status_code == 503
        assert "does not answer" in answer.json()["detail"]
        assert client.get("/").status_code == 200
        assert len(get(client, "/api/runs")) == 1
