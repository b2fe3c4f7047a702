"""The console's pages as HTML: rendered from views, the same live and as a file."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from threading import Lock

from markupsafe import Markup

from dashboards.views import DomainView, change_token, domain_view, progress_words
from rollout.control.schema import Spec
from rollout.reporting.page import STYLE, environment
from rollout.reporting.weekly import period_charts
from rollout.store.session import Store

Clock = Callable[[], datetime]

TEMPLATES = environment("dashboards")
SHOWN_DECISIONS = 20


class Pages:
    """Renders pages of one store; keeps each domain's newest rendering, so that many viewers of one
    change cost one look at the store."""

    def __init__(self, store: Store, spec: Spec, clock: Clock) -> None:
        self.store = store
        self.spec = spec
        self.clock = clock
        self._rendered: dict[str, tuple[str, str]] = {}
        self._lock = Lock()

    def overview(self) -> str:
        """All domains, or what to do next where there are none."""
        now = self.clock()
        with self.store.read() as session:
            views = [domain_view(session, self.spec, name, now) for name in self.spec.domains]
        return TEMPLATES.get_template("overview.html.j2").render(
            views=views, progress_words=progress_words
        )

    def domain(self, name: str) -> str:
        """A domain's page, which keeps itself up to date where scripts run."""
        token, fragment = self.fragment(name)
        return TEMPLATES.get_template("domain.html.j2").render(
            name=name, token=token, fragment=Markup(fragment), style=None, as_of=None
        )

    def fragment(self, name: str) -> tuple[str, str]:
        """The part of a domain's page that changes, and the token of what it shows."""
        now = self.clock()
        token = self.token(name)
        # Ages are told in minutes, so a rendering is good for the minute.
        key = f"{token} {now:%Y%m%d%H%M}"
        with self._lock:
            kept = self._rendered.get(name)
            if kept is None or kept[0] != key:
                with self.store.read() as session:
                    view = domain_view(session, self.spec, name, now)
                kept = self._rendered[name] = (key, render_fragment(view))
            return token, kept[1]

    def token(self, name: str) -> str:
        with self.store.read() as session:
            return change_token(session, name)


def render_snapshot(store: Store, spec: Spec, domain: str, now: datetime) -> str:
    """A domain's page as one file that needs neither server nor network.

    Raises:
        RolloutError: the spec has no such domain.
        StoreUnreachable: the database does not answer.
    """
    with store.read() as session:
        view = domain_view(session, spec, domain, now)
    return TEMPLATES.get_template("domain.html.j2").render(
        name=domain,
        token="",
        fragment=Markup(render_fragment(view)),
        style=Markup(STYLE),
        as_of=now,
    )


def render_fragment(view: DomainView) -> str:
    """The changing part of a domain's page."""
    return TEMPLATES.get_template("_domain.html.j2").render(
        view=view,
        charts=period_charts(view.period, view.spec.stages),
        progress_words=progress_words,
        decisions=view.period.decisions[: -SHOWN_DECISIONS - 1 : -1],
        weights=view.spec.stages,
    )
