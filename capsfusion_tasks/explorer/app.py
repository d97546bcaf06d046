"""The app: one page with its parts, and what the page asks for. Every route is behind the guard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.explorer.access import WarehouseAccess
from capsfusion_tasks.explorer.figures import figures
from capsfusion_tasks.explorer.origins import origins
from capsfusion_tasks.explorer.parameters import CaptionQuery, RunQuery, as_text
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.validation.rules import FLAGS, RULES
from capsfusion_tasks.warehouse import browse, funnels
from capsfusion_tasks.warehouse.lineage import lineage

Json = dict[str, Any]

PAGE = Path(__file__).parent / "page"
_PARTS = {path.name: path for path in sorted(PAGE.iterdir()) if path.suffix in (".css", ".js")}
_SHARDS_OFFERED = 200
# Captions are from the open web: whatever gets through, the page runs its own code only and asks nobody else. Airflow
# shows the page in a frame.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def create_app(*, guard: Callable[..., Any], settings: Callable[[], Settings] = load_settings) -> FastAPI:
    """The explorer over the warehouse of ``settings``.

    ``guard`` is a FastAPI dependency that raises for who may not look. It stands before every route, the page's own
    files too; FastAPI's pages about the API, which it would not stand before, are off.
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
    _add_runs(app, access)

    @app.exception_handler(InputError)
    @app.exception_handler(NotReadyError)
    async def unusable(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=503)

    @app.middleware("http")
    async def careful(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    return app


def _add_page(app: FastAPI) -> None:
    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/static/{name}")
    def part(name: str) -> FileResponse:
        if name not in _PARTS:
            raise HTTPException(404, "the page has no such part")
        return FileResponse(_PARTS[name])


def _add_captions(app: FastAPI, access: WarehouseAccess) -> None:
    @app.get("/api/choices")
    def choices() -> Json:
        with access.connection() as connection:
            return {
                "fusions": browse.known_fusions(connection),
                "shards": browse.newest_shards(connection, _SHARDS_OFFERED),
                "reasons": [rule.__name__ for rule in RULES],
                "flags": [rule.__name__ for rule in FLAGS],
                "scores": browse.SCORES,
            }

    @app.get("/api/captions")
    def captions(query: Annotated[CaptionQuery, Query()]) -> Json:
        with access.connection() as connection:
            page = browse.caption_page(connection, query.filter(), query.position(), query.limit)
        rows = [_with_origins(row) for row in page.rows]
        return {"rows": rows, "following": as_text(page.following), "sql": page.sql}

    @app.get("/api/captions/{pair_id}/{fusion_id}")
    def caption(pair_id: UUID, fusion_id: str) -> Json:
        with access.connection() as connection:
            found = lineage(connection, pair_id, fusion_id)
        if found is None:
            raise HTTPException(404, "the warehouse has no such caption (any more)")
        # As text: JavaScript's numbers are not wide enough for 64 bits.
        return {**_with_origins(found), "laion_hash": str(found["laion_hash"])}


def _add_runs(app: FastAPI, access: WarehouseAccess) -> None:
    @app.get("/api/runs")
    def runs() -> list[Json]:
        with access.connection() as connection:
            return funnels.recent_runs(connection)

    @app.get("/api/figures")
    def run(query: Annotated[RunQuery, Query()]) -> Json:
        with access.connection() as connection:
            found = figures(connection, query.key())
        if found is None:
            raise HTTPException(404, "the ledger has no unit of this run: it planned nothing new, or nothing yet")
        return found


def _with_origins(row: Json) -> Json:
    return {**row, "pieces": origins(row["capsfusion"], row["laion_2b"], row["laion_coco"])}
