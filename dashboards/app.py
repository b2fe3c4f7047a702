"""The web console: read-only pages and a JSON API over the store. Nothing comes from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from sse_starlette.sse import EventSourceResponse

from dashboards.pages import TEMPLATES, Clock, Pages
from dashboards.views import domain_view, request_json
from rollout.control.schema import Spec
from rollout.reporting.figures import domain_of
from rollout.reporting.page import STYLE
from rollout.store.session import Store, StoreUnreachable
from rollout.values import RolloutError

SCRIPT = files("dashboards").joinpath("static/live.js").read_text("utf-8")
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
POLL_S = 2.0
"""How often an open page's stream looks for changes."""


def utc_now() -> datetime:
    return datetime.now(UTC)


def create_app(store: Store, spec: Spec, clock: Clock = utc_now) -> FastAPI:
    """The console of one store. `clock` tells the ages on the pages."""
    app = FastAPI(title="Early exit console", docs_url=None, redoc_url=None, openapi_url=None)
    pages = Pages(store, spec, clock)

    @app.middleware("http")
    async def secure(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        for name, value in SECURITY_HEADERS.items():
            response.headers[name] = value
        return response

    @app.exception_handler(StoreUnreachable)
    def unreachable(request: Request, error: Exception) -> Response:
        return _problem(request, 503, "The store does not answer", str(error), spec)

    @app.exception_handler(RolloutError)
    def not_found(request: Request, error: Exception) -> Response:
        return _problem(request, 404, "Not found", str(error), spec)

    @app.exception_handler(404)
    def no_page(request: Request, error: Exception) -> Response:
        return _problem(request, 404, "Not found", f"There is no page {request.url.path}", spec)

    @app.get("/", response_class=HTMLResponse)
    def overview() -> str:
        return pages.overview()

    @app.get("/domains/{name}", response_class=HTMLResponse)
    def domain_page(name: str) -> str:
        domain_of(spec, name)
        return pages.domain(name)

    @app.get("/domains/{name}/fragment", response_class=HTMLResponse)
    def domain_fragment(name: str) -> HTMLResponse:
        domain_of(spec, name)
        token, fragment = pages.fragment(name)
        return HTMLResponse(fragment, headers={"X-Token": token})

    @app.get("/domains/{name}/events")
    async def domain_events(name: str) -> EventSourceResponse:
        domain_of(spec, name)
        return EventSourceResponse(_changes(pages, name))

    @app.get("/api/domains")
    def domains() -> dict[str, Any]:
        now = clock()
        with store.read() as session:
            views = [domain_view(session, spec, name, now).as_json() for name in spec.domains]
        return {"domains": [{**view, "figures": view["figures"]["summary"]} for view in views]}

    @app.get("/api/domains/{name}")
    def domain(name: str) -> dict[str, Any]:
        with store.read() as session:
            return domain_view(session, spec, name, clock()).as_json()

    @app.get("/api/requests/{request_id:path}")
    def request_outcome(request_id: str) -> dict[str, Any]:
        with store.read() as session:
            return request_json(session, request_id)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        pages.token(next(iter(spec.domains)))
        return {"status": "ok"}

    @app.get("/static/page.css")
    def style() -> Response:
        return Response(STYLE, media_type="text/css")

    @app.get("/static/live.js")
    def script() -> Response:
        return Response(SCRIPT, media_type="text/javascript")

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    return app


async def _changes(pages: Pages, name: str) -> AsyncIterator[dict[str, str]]:
    """The token of a domain whenever it changes, the present one at once."""
    sent = ""
    while True:
        try:
            token = await run_in_threadpool(pages.token, name)
        except StoreUnreachable:
            token = "unreachable"
        if token != sent:
            yield {"event": "trouble" if token == "unreachable" else "change", "data": token}
            sent = token
        await asyncio.sleep(POLL_S)


def _problem(request: Request, status: int, title: str, words: str, spec: Spec) -> Response:
    """A page for people, JSON for programs: what is wrong and what there is instead."""
    if request.url.path.startswith("/api/") or request.url.path == "/healthz":
        return JSONResponse({"error": words, "domains": sorted(spec.domains)}, status_code=status)
    page = TEMPLATES.get_template("problem.html.j2").render(
        title=title, words=words, names=sorted(spec.domains)
    )
    return HTMLResponse(page, status_code=status)
