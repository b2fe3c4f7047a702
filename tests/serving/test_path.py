"""The request path, on a real model and real stores."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from rollout.engine.choice import RowPlan, answer_batch
from rollout.engine.segments import Segments
from rollout.engine.task import BadRequest
from rollout.serving.assignment import arm_of, is_shadowed
from rollout.serving.domain_engine import DomainEngines
from rollout.serving.messages import ServedAnswer, ServeRequest, ShadowReplay
from rollout.serving.outbox import Outbox
from rollout.serving.path import ServingPath
from rollout.serving.policy_cache import PolicyCache
from rollout.store.catalog import set_kill_switch
from rollout.store.models import Outcome, Trace
from rollout.store.outcomes import is_evidence
from rollout.store.session import Store, open_store
from rollout.values import DepthTrace, ExitPoint, RolloutError, replay
from tests.conftest import PostgresServer
from tests.homes import Engine, apply_home, write_home
from tests.models import EAGER, LABELS, random_texts
from tests.store.examples import NOW

TEXTS = random_texts(48, seed=5)


class Worker:
    """One serving process in this process, and what it released."""

    def __init__(self, tiny: Engine, store: Store, home: Path, segments: Segments | None = None):
        held = segments or tiny.segments
        self.store = store
        self.home = home
        self.tiny = tiny
        self.spool = home / "spool"
        self.outbox = Outbox(store, self.spool, retry_s=0.0)
        self.path = ServingPath(
            held,
            store,
            PolicyCache(store, ttl_s=0.0),
            DomainEngines(held, home / "heads"),
            self.outbox,
            clock=lambda: NOW,
            worker="serve@test",
            costs=EAGER,
        )
        self.replays: list[ShadowReplay] = []

    def serve(self, requests: Sequence[ServeRequest]) -> list[ServedAnswer | RolloutError]:
        answers: dict[int, ServedAnswer | RolloutError] = {}

        def release(place: int, answer: ServedAnswer | RolloutError) -> None:
            assert place not in answers, "released twice"
            answers[place] = answer

        self.replays = self.path.serve(requests, release)
        return [answers[place] for place in range(len(requests))]

    def outcomes(self) -> dict[str, Outcome]:
        with self.store.read() as session:
            return {row.request_id: row for row in session.scalars(select(Outcome))}


def a_request(number: int, **changes: Any) -> ServeRequest:
    return replace(ServeRequest(f"r{number}", "billing", TEXTS[number % len(TEXTS)]), **changes)


BATCH = [a_request(number) for number in range(40)]


def served(answers: Sequence[ServedAnswer | RolloutError]) -> list[ServedAnswer]:
    assert all(isinstance(answer, ServedAnswer) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, ServedAnswer)]


@pytest.fixture
def make_worker(tiny: Engine, tmp_path: Path) -> Callable[..., Worker]:
    """A worker whose domain is live at half of its traffic, unless told otherwise."""

    def make(
        store: Store, *, stage: int = 1, segments: Segments | None = None, **domain: Any
    ) -> Worker:
        home = tmp_path / "home"
        home.mkdir()
        write_home(home, tiny.folder, **domain)
        apply_home(store, home, [tiny.policy(tiny.heads.save(home / "heads"))], stage)
        return Worker(tiny, store, home, segments)

    return make


@pytest.fixture
def worker(make_worker: Callable[..., Worker], sqlite_store: Store) -> Worker:
    return make_worker(sqlite_store)


def test_rows_equal_the_engines_result_and_the_assignment(
    store: Store, make_worker: Callable[..., Worker], tiny: Engine
) -> None:
    worker = make_worker(store)
    answers = served(worker.serve(BATCH))
    outcomes = worker.outcomes()
    policy = tiny.policy(tiny.heads.save(worker.home / "heads"))
    arms = [arm_of("billing", request.request_id, 0.5) for request in BATCH]
    shadows = [
        arm == "early" and is_shadowed("billing", request.request_id, 0.5)
        for arm, request in zip(arms, BATCH, strict=True)
    ]
    results = answer_batch(
        tiny.segments,
        tiny.task,
        [tiny.task.encode(request.text) for request in BATCH],
        [RowPlan(arm == "early", shadow) for arm, shadow in zip(arms, shadows, strict=True)],
        policy,
        tiny.heads,
    )
    kinds = set()
    for request, answer, result, arm, shadow in zip(
        BATCH, answers, results, arms, shadows, strict=True
    ):
        row = outcomes[request.request_id]
        assert result.answer is not None
        kinds.add((arm, shadow, result.answer.exit_layer is not None))
        assert (row.arm, row.shadow, row.stage_weight) == (arm, shadow, 0.5)
        assert row.inclusion_probability == (1.0 if arm == "control" else 0.5)
        assert row.answer == answer.answer == LABELS[result.answer.label]
        assert row.exit_layer == answer.exit_layer == result.answer.exit_layer
        assert row.layers_run == answer.layers_run == result.answer.layers_run
        assert (row.shadow_layers, row.probes) == (result.shadow_layers, result.probes)
        assert (row.prompt_tokens, row.batch_rows) == (result.prompt_tokens, len(BATCH))
        assert (row.depth, row.policy_version, row.worker) == (6, 1, "serve@test")
        assert (row.model_revision, row.layer_ms) == (tiny.segments.loaded.revision, 1.5)
        assert row.created_at == NOW and row.latency_ms > 0
        if result.answer.exit_layer is not None:
            assert row.confidence == pytest.approx(result.answer.confidence)
        if result.trace is None:
            assert (row.full_answer, row.agreement) == (None, None)
        else:
            assert row.full_answer == LABELS[result.trace.full_answer]
    assert kinds == {
        ("control", False, False),
        ("early", False, False),
        ("early", False, True),
        ("early", True, False),
        ("early", True, True),
    }, "this batch has every kind of row"


def test_control_rows_are_judged_by_replaying_their_trace_under_the_live_policy(
    worker: Worker,
) -> None:
    worker.serve(BATCH)
    policy = worker.tiny.policy("")
    exits = set()
    for row in worker.outcomes().values():
        if row.arm != "control":
            continue
        with worker.store.read() as session:
            trace = session.get(Trace, row.request_id)
        assert trace is not None
        points = zip(trace.exit_layers, trace.answers, trace.confidences, strict=True)
        replayed = replay(
            DepthTrace(tuple(ExitPoint(*point) for point in points), trace.full_answer, 6), policy
        )
        assert row.policy_exit_layer == replayed.exit_layer
        assert row.agreement == float(replayed.agrees)
        assert (row.exit_layer, row.layers_run, row.answer) == (None, 6, row.full_answer)
        assert is_evidence(row)
        exits.add(replayed.exit_layer is not None)
    assert exits == {True, False}


def test_a_fallback_agrees_by_construction_and_an_unshadowed_exit_is_not_compared(
    worker: Worker,
) -> None:
    worker.serve(BATCH)
    early = [row for row in worker.outcomes().values() if row.arm == "early"]
    fallbacks = [row for row in early if row.exit_layer is None]
    unseen = [row for row in early if row.exit_layer is not None and not row.shadow]
    shadowed = [row for row in early if row.exit_layer is not None and row.shadow]
    assert fallbacks and unseen and shadowed
    for row in fallbacks:
        assert (row.agreement, row.answer, row.layers_run) == (1.0, row.full_answer, 6)
        assert row.fallback_reason == "no exit was confident enough"
        assert is_evidence(row) is row.shadow, "unshadowed fallbacks were not drawn at random"
    for row in unseen:
        assert (row.agreement, row.full_answer, row.shadow_layers) == (None, None, 0)
        assert not is_evidence(row)
    for row in shadowed:
        assert row.exit_layer is not None
        assert row.agreement == float(row.answer == row.full_answer)
        assert row.shadow_layers == 6 - row.exit_layer


def test_a_request_is_answered_at_its_exit_before_its_batch_is_done(
    worker: Worker,
) -> None:
    # The first request of a template has the template's beginning computed, at full depth.
    worker.serve([a_request(99)])
    layers: list[tuple[int, int | None]] = []
    last = worker.tiny.segments.loaded.layers[-1]
    last_layer_ran: list[bool] = []
    hook = last.register_forward_hook(lambda *_: last_layer_ran.append(True))
    try:

        def release(place: int, answer: ServedAnswer | RolloutError) -> None:
            assert isinstance(answer, ServedAnswer)
            layers.append((len(last_layer_ran), answer.exit_layer))

        worker.path.serve(BATCH, release)
    finally:
        hook.remove()
    assert {ran for ran, layer in layers if layer is not None} == {0}
    assert {ran for ran, layer in layers if layer is None} == {1}


def test_the_arm_sticks_to_the_key_where_there_is_one(worker: Worker) -> None:
    requests = [a_request(number, request_key="customer-7") for number in range(12)]
    assert len({answer.arm for answer in served(worker.serve(requests))}) == 1
    assert len({row.request_key_hash for row in worker.outcomes().values()}) == 1


def test_the_same_request_twice_in_a_batch_is_answered_twice_and_stored_once(
    store: Store, make_worker: Callable[..., Worker]
) -> None:
    worker = make_worker(store)
    answers = served(worker.serve([a_request(0), a_request(1), a_request(0)]))
    assert answers[0] == answers[2]
    assert set(worker.outcomes()) == {"r0", "r1"}


def test_a_redelivered_request_gets_the_answer_it_had_and_no_second_row(
    store: Store, make_worker: Callable[..., Worker]
) -> None:
    worker = make_worker(store)
    first = served(worker.serve(BATCH))
    with store.write() as session:
        set_kill_switch(session, on=True, actor="me", reason="drill", now=NOW)
    again = served(worker.serve([*BATCH, a_request(0)]))
    assert [*first, first[0]] == [
        replace(answer, confidence=first[place % 40].confidence)
        for place, answer in enumerate(again)
    ]
    assert len(worker.outcomes()) == len(BATCH)
    assert worker.replays == []


def test_an_id_used_for_another_request_is_refused(worker: Worker) -> None:
    worker.serve([a_request(0)])
    other = a_request(0, text="cancel it")
    answers = worker.serve([other, a_request(1), a_request(1, text="cancel it"), a_request(0)])
    assert [type(answer) for answer in answers] == [
        BadRequest,
        ServedAnswer,
        BadRequest,
        ServedAnswer,
    ]
    assert "was used for another request before" in str(answers[0])


def test_under_the_kill_switch_everybody_gets_full_depth_and_the_policy_is_judged_on(
    worker: Worker,
) -> None:
    with worker.store.write() as session:
        set_kill_switch(session, on=True, actor="me", reason="drill", now=NOW)
    answers = served(worker.serve(BATCH))
    assert {(answer.arm, answer.layers_run) for answer in answers} == {("control", 6)}
    for row in worker.outcomes().values():
        assert row.fallback_reason == "the kill switch is on (by me: drill)"
        assert row.stage_weight == 0.0
        assert row.agreement is not None


def test_without_a_policy_the_answer_is_the_full_models_and_the_row_says_why(
    tiny: Engine, sqlite_store: Store, tmp_path: Path
) -> None:
    apply_home(sqlite_store, write_home(tmp_path, tiny.folder))
    worker = Worker(tiny, sqlite_store, tmp_path)
    assert {answer.layers_run for answer in served(worker.serve(BATCH))} == {6}
    for row in worker.outcomes().values():
        assert row.fallback_reason == "there is no exit policy yet: run `rollout calibrate`"
        assert (row.policy_version, row.agreement, row.probes) == (None, None, 0)
    with sqlite_store.read() as session:
        assert session.scalar(select(func.count()).select_from(Trace)) == 0


def _nan_heads(tiny: Engine, folder: Path) -> str:
    head = tiny.heads.heads[2]
    broken = replace(head, bias=torch.full_like(head.bias, math.nan))
    return replace(tiny.heads, heads=tiny.heads.heads | {2: broken}).save(folder)


def _heads_of_another_model(tiny: Engine, folder: Path) -> str:
    return replace(tiny.heads, model_revision="00" * 32).save(folder)


def _half_a_head(tiny: Engine, folder: Path) -> str:
    head = tiny.heads.heads[2]
    half = replace(head, weight=head.weight[:2])
    return replace(tiny.heads, heads=tiny.heads.heads | {2: half}).save(folder)


@pytest.mark.parametrize(
    ("make", "changes", "why"),
    [
        (lambda tiny, folder: "ab" * 32, {}, "cannot be read"),
        (_nan_heads, {}, "bias holds NaN or infinity"),
        (_heads_of_another_model, {}, "were made for model revision 000000000000"),
        (_half_a_head, {}, r"weight is \(2, 64\), expected \(4, 64\)"),
        (
            lambda tiny, folder: tiny.heads.save(folder),
            {"model_revision": "11" * 32},
            "was made for model revision 111111111111",
        ),
        (
            lambda tiny, folder: tiny.heads.save(folder),
            {"exit_layers": (2, 3)},
            "its heads know",
        ),
    ],
)
def test_a_policy_that_is_not_sound_is_refused_once_and_answered_at_full_depth(
    tiny: Engine,
    sqlite_store: Store,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Engine, Path], str],
    changes: dict[str, Any],
    why: str,
) -> None:
    policy = tiny.policy(make(tiny, tmp_path / "heads"), **changes)
    apply_home(sqlite_store, write_home(tmp_path, tiny.folder), [policy])
    worker = Worker(tiny, sqlite_store, tmp_path)
    with caplog.at_level(logging.ERROR):
        for batch in (BATCH[:8], BATCH[8:16]):
            assert {answer.layers_run for answer in served(worker.serve(batch))} == {6}
    assert [record.name for record in caplog.records] == ["rollout.serving.domain_engine"]
    assert caplog.records[0].getMessage().startswith("domain billing: policy refused: ")
    for row in worker.outcomes().values():
        assert row.fallback_reason is not None and row.arm == "control"
        assert re.search(why, row.fallback_reason)


def test_a_row_whose_numbers_are_not_finite_gets_an_error_and_the_others_their_answer(
    worker: Worker,
) -> None:
    layer = worker.tiny.segments.loaded.layers[1]

    def spoil(_module: object, _args: object, output: torch.Tensor) -> torch.Tensor:
        # A single row may be the template's beginning, computed once for all.
        return output.index_fill(0, torch.tensor([0]), math.nan) if len(output) > 1 else output

    hook = layer.register_forward_hook(spoil)
    try:
        answers = worker.serve(BATCH)
    finally:
        hook.remove()
    assert isinstance(answers[0], RolloutError)
    assert "the full model's label scores are not finite" in str(answers[0])
    served(answers[1:])
    assert set(worker.outcomes()) == {request.request_id for request in BATCH[1:]}


def test_a_bad_request_gets_its_error_and_the_others_their_answer(worker: Worker) -> None:
    bad = {
        "is unknown; did you mean 'billing'": a_request(1, domain="biling"),
        "the text is empty": a_request(2, text=" \n"),
        "the model's context takes": a_request(3, text="refund " * 500),
        "is not ISO 8601": a_request(4, requested_at="yesterday"),
        "has no time zone": a_request(5, requested_at="2026-11-16T09:30"),
        "is out of range": a_request(6, requested_at="0001-01-01T00:00+23:00"),
    }
    answers = worker.serve([a_request(0), *bad.values(), a_request(7)])
    for message, answer in zip(bad, answers[1:-1], strict=True):
        assert isinstance(answer, RolloutError)
        assert message in str(answer)
    served([answers[0], answers[-1]])
    assert set(worker.outcomes()) == {"r0", "r7"}


def test_a_request_may_bring_its_own_time(worker: Worker) -> None:
    worker.serve([a_request(0, requested_at="2026-11-18T09:00:00+09:00")])
    assert worker.outcomes()["r0"].created_at == datetime(2026, 11, 18, tzinfo=UTC)


def test_one_text_on_which_the_engine_fails_does_not_take_its_batch_down(
    worker: Worker,
) -> None:
    poison = worker.tiny.task.encode(BATCH[3].text)[0]

    def fail(_module: object, args: tuple[torch.Tensor]) -> None:
        for row in args[0].tolist():
            if row[-len(poison) :] == poison:
                raise RuntimeError("CUDA error: device-side assert triggered")

    embedding = worker.tiny.segments.loaded.model.get_input_embeddings()
    hook = embedding.register_forward_pre_hook(fail)
    try:
        answers = worker.serve(BATCH[:8])
    finally:
        hook.remove()
    assert isinstance(answers[3], RolloutError)
    assert "the engine failed: CUDA error" in str(answers[3])
    served([*answers[:3], *answers[4:]])
    assert set(worker.outcomes()) == {f"r{number}" for number in range(8) if number != 3}


def test_while_the_store_is_down_answers_go_on_and_outcomes_wait_on_disk(
    postgres_server: PostgresServer, postgres_store: Store, make_worker: Callable[..., Worker]
) -> None:
    worker = make_worker(postgres_store)
    name = str(postgres_store.engine.url.database)
    served(worker.serve(BATCH[:4]))
    postgres_server.admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
    try:
        postgres_server.admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
        answers = served(worker.serve([*BATCH[:8], BATCH[6]]))
        assert {answer.layers_run for answer in answers} == {6}, "no policy that cannot be read"
        assert list(worker.spool.glob("*.jsonl"))
    finally:
        postgres_server.admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())
    served(worker.serve(BATCH[8:10]))
    assert list(worker.spool.glob("*.jsonl")) == []
    outcomes = worker.outcomes()
    assert set(outcomes) == {request.request_id for request in BATCH[:10]}
    assert outcomes["r5"].fallback_reason is not None
    assert outcomes["r5"].fallback_reason.startswith("the policy store cannot be read")


@pytest.mark.parametrize("stored", [True, False])
def test_texts_are_stored_only_where_the_domain_says_so(
    sqlite_store: Store, make_worker: Callable[..., Worker], stored: bool
) -> None:
    worker = make_worker(sqlite_store, text={"store": stored})
    worker.serve(BATCH[:4])
    texts = {row.text for row in worker.outcomes().values()}
    assert texts == ({request.text for request in BATCH[:4]} if stored else {None})


def test_the_domains_share_of_the_shadows_is_chosen_for_a_replay(
    sqlite_store: Store, make_worker: Callable[..., Worker]
) -> None:
    worker = make_worker(sqlite_store, shadow={"rate": 0.5, "replay_share": 1.0})
    worker.serve(BATCH)
    shadowed = {row.request_id for row in worker.outcomes().values() if row.shadow}
    assert {shadow.request_id for shadow in worker.replays} == shadowed != set()


def test_under_a_noise_ceiling_control_answers_are_replayed_too(
    sqlite_store: Store, make_worker: Callable[..., Worker]
) -> None:
    worker = make_worker(
        sqlite_store,
        shadow={"rate": 0.5, "replay_share": 1.0},
        agreement={"noise_ceiling": True},
    )
    worker.serve(BATCH)
    full = {
        row.request_id for row in worker.outcomes().values() if row.shadow or row.arm == "control"
    }
    assert {shadow.request_id for shadow in worker.replays} == full


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"request_id": ""}, "0 characters: give 1 to 200"),
        ({"request_id": "x" * 201}, "201 characters"),
        ({"request_id": "a\0b"}, "printable"),
        ({"request_id": "a\nb"}, "printable"),
        ({"request_id": "\ud800"}, "request_id is not valid Unicode"),
        ({"text": "half \udc80"}, "text is not valid Unicode"),
        ({"request_key": "\ud800"}, "request_key is not valid Unicode"),
        ({"request_id": 7}, "request_id must be text, not int"),
        ({"text": None}, "text must be text, not NoneType"),
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
    ],
)
def test_a_malformed_request_is_refused_with_the_field(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        ServeRequest.from_json({"request_id": "r", "domain": "billing", "text": "a"} | fields)
    with pytest.raises(BadRequest, match="missing"):
        ServeRequest.from_json({"request_id": "r"})


@pytest.fixture(scope="module")
def shared_worker(
    tiny: Engine, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    home = tmp_path_factory.mktemp("home")
    (home / "rollout.db").write_bytes(sqlite_template.read_bytes())
    store = open_store(f"sqlite:///{home / 'rollout.db'}")
    write_home(home, tiny.folder)
    apply_home(store, home, [tiny.policy(tiny.heads.save(home / "heads"))])
    yield Worker(tiny, store, home)
    store.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.fixed_dictionaries(
            {"request_id": st.text(max_size=210), "text": st.text(max_size=30)},
            optional={
                "domain": st.sampled_from(["billing", "biling", "\0"]),
                "request_key": st.none() | st.text(),
                "requested_at": st.none() | st.datetimes().map(str) | st.just("2026-11-16T00Z"),
            },
        ),
        min_size=1,
        max_size=6,
    )
)
def test_whatever_is_sent_each_request_is_answered_once_and_stored_at_most_once(
    shared_worker: Worker, fields: list[dict[str, Any]]
) -> None:
    accepted: list[ServeRequest] = []
    for given_fields in fields:
        try:
            accepted.append(ServeRequest.from_json({"domain": "billing"} | given_fields))
        except BadRequest:
            continue
    answers = shared_worker.serve(accepted)
    outcomes = shared_worker.outcomes()
    for request, answer in zip(accepted, answers, strict=True):
        if isinstance(answer, ServedAnswer):
            assert outcomes[request.request_id].answer == answer.answer
    assert not list(shared_worker.spool.glob("*")), "nothing was refused by the store"
