"""The captions view's web app: one page, its scripts, and routes that return JSON.

A guard checks the user's rights before each route.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

from capsfusion_tasks.caption_filter import SCORES
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.explorer.access import WarehouseAccess
from capsfusion_tasks.explorer.explain import explain
from capsfusion_tasks.explorer.figures import figures
from capsfusion_tasks.explorer.origins import differences, origins
from capsfusion_tasks.explorer.parameters import (
    CaptionQuery,
    FacetQuery,
    ImageQuery,
    JudgementBody,
    RunQuery,
    TrendQuery,
    as_text,
)
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.validation.rules import FLAGS, RULES
from capsfusion_tasks.warehouse import browse, choices, funnels, judgements
from capsfusion_tasks.warehouse.conditions import UnclearFilter
from capsfusion_tasks.warehouse.facets import facets
from capsfusion_tasks.warehouse.hints import hint
from capsfusion_tasks.warehouse.judgements import ReplacedCaption, judgements_of
from capsfusion_tasks.warehouse.lineage import lineage
from capsfusion_tasks.warehouse.trends import trends

Json = dict[str, Any]

PAGE = Path(__file__).parent / "page"
_PARTS = {path.name: path for path in sorted(PAGE.iterdir()) if path.suffix in (".css", ".js")}
_NAMES_OFFERED = 200
_NO_CAPTION = "the warehouse does not have this caption; it may have been removed"
# Captions come from the open web. Even if the browser interprets a caption as HTML, it runs only the page's own scripts
# and connects only to this server. frame-ancestors allows Airflow to show the page in a frame.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def create_app(
    *, guard: Callable[..., Any], judge: Callable[..., str], settings: Callable[[], Settings] = load_settings
) -> FastAPI:
    """The web app for the warehouse of ``settings``.

    ``guard`` is a FastAPI dependency that raises an error for users who may not read captions. It runs before every
    route, including those of the page's own files. FastAPI's own API pages are off, because no guard runs before them.
    ``judge`` is a FastAPI dependency that raises an error for users who may not judge captions. For other users, it
    returns the user's name.
    """
    access = WarehouseAccess(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        access.close()

    app = FastAPI(
        title="CapsFusion captions",
        dependencies=[Depends(guard)],
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    _add_page(app)
    _add_captions(app, access)
    _add_judgements(app, access, judge)
    _add_runs(app, access)

    @app.exception_handler(UnclearFilter)
    async def unclear(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422)

    @app.exception_handler(ReplacedCaption)
    async def replaced(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=409)

    @app.exception_handler(InputError)
    @app.exception_handler(NotReadyError)
    async def unusable(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=503)

    @app.middleware("http")
    async def careful(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return app


def _add_page(app: FastAPI) -> None:
    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/static/{name}")
    def part(name: str) -> FileResponse:
        if name not in _PARTS:
            raise HTTPException(404, "the page has no such file")
        return FileResponse(_PARTS[name])

    @app.get("/image")
    def image(query: Annotated[ImageQuery, Query()]) -> HTMLResponse:
        """A page with one image from the web.

        The captions page may not load images of other hosts, so it shows this page in a frame.
        """
        shown = f'<img src="{escape(query.url)}" alt="The image could not be loaded." referrerpolicy="no-referrer">'
        style = '<link rel="stylesheet" href="static/style.css">'
        policy = "default-src 'none'; img-src http: https:; style-src 'self'; frame-ancestors 'self'"
        return HTMLResponse(f"<!doctype html>{style}{shown}", headers={"Content-Security-Policy": policy})


def _add_captions(app: FastAPI, access: WarehouseAccess) -> None:
    @app.get("/api/choices")
    def offered() -> Json:
        with access.connection() as connection:
            return {
                "fusions": [asdict(fusion) for fusion in choices.known_fusions(connection)],
                "shards": choices.newest_shards(connection, _NAMES_OFFERED),
                "runs": choices.newest_runs(connection, _NAMES_OFFERED),
                "reasons": [rule.__name__ for rule in RULES],
                "flags": [rule.__name__ for rule in FLAGS],
                "scores": SCORES,
            }

    @app.get("/api/captions")
    def captions(query: Annotated[CaptionQuery, Query()]) -> Json:
        with access.connection() as connection:
            page = browse.caption_page(connection, query.filter(), query.position(), query.limit)
            hinted = hint(connection, query) if not page.rows and query.after is None else None
            judged = judgements_of(connection, [(row.pair_id, row.fusion_id, row.capsfusion) for row in page.rows])
        rows = [
            {**_with_origins(asdict(row)), "judgements": judged.get((row.pair_id, row.fusion_id), [])}
            for row in page.rows
        ]
        return {
            "rows": rows,
            "following": as_text(page.following),
            "sql": page.sql,
            "hint": None if hinted is None else asdict(hinted),
        }

    @app.get("/api/facets")
    def counted(query: Annotated[FacetQuery, Query()]) -> Json:
        with access.connection() as connection:
            return asdict(facets(connection, query.filter(), query.histogram))

    @app.get("/api/captions/{pair_id}/{fusion_id}")
    def caption(pair_id: UUID, fusion_id: str) -> Json:
        with access.connection() as connection:
            found = lineage(connection, pair_id, fusion_id)
            if found is None:
                raise HTTPException(404, _NO_CAPTION)
            shown = found.as_dict()
            judged = judgements_of(connection, [(pair_id, fusion_id, shown["capsfusion"])])
        texts = (shown["laion_2b"], shown["laion_coco"], shown["capsfusion"])
        codes = [*(shown["reasons"] or []), *shown["flags"]]
        findings, pieces = explain(texts, codes, shown, access.rules)
        return {
            **shown,
            "laion_hash": str(shown["laion_hash"]),  # text, because JavaScript cannot represent all 64-bit integers
            "findings": findings,
            "pieces": pieces,
            "others": [
                {**other, "diff": differences(other["capsfusion"], shown["capsfusion"])} for other in found.others
            ],
            "judgements": judged.get((pair_id, fusion_id), []),
        }


def _add_judgements(app: FastAPI, access: WarehouseAccess, judge: Callable[..., str]) -> None:
    judgement = "/api/captions/{pair_id}/{fusion_id}/judgement"

    @app.get("/api/judge")
    def who(name: str = Depends(judge)) -> Json:
        return {"name": name}

    @app.put(judgement)
    def put(pair_id: UUID, fusion_id: str, said: JudgementBody, name: str = Depends(judge)) -> Json:
        with access.writable("judgements") as connection:
            if not judgements.judge(connection, pair_id, fusion_id, name, **said.model_dump()):
                raise HTTPException(404, _NO_CAPTION)
        return {"judged_by": name, **said.model_dump(exclude={"shown"})}

    @app.delete(judgement)
    def delete(pair_id: UUID, fusion_id: str, name: str = Depends(judge)) -> Json:
        with access.writable("judgements") as connection:
            judgements.withdraw(connection, pair_id, fusion_id, name)
        return {"judged_by": name}


def _add_runs(app: FastAPI, access: WarehouseAccess) -> None:
    @app.get("/api/runs")
    def runs() -> list[Json]:
        with access.connection() as connection:
            return [asdict(run) for run in funnels.recent_runs(connection)]

    @app.get("/api/trends")
    def by_day(query: Annotated[TrendQuery, Query()]) -> Json:
        with access.connection() as connection:
            return asdict(trends(connection, query.fusion_id))

    @app.get("/api/figures")
    def run(query: Annotated[RunQuery, Query()]) -> Json:
        with access.connection() as connection:
            found = figures(connection, query.key())
        if found is None:
            raise HTTPException(404, "this run has no work units: it found no pairs to fuse, or is not planned yet")
        return asdict(found)


def _with_origins(row: Json) -> Json:
    return {**row, "pieces": origins(row["capsfusion"], row["laion_2b"], row["laion_coco"])}
