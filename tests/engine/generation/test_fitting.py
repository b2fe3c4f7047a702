"""Token exits fitted to the full model's own answers keep what they forecast."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rollout.engine.generation import (
    TextRequest,
    TokenExits,
    TokenHead,
    fit_token_exits,
    generate,
    probe_layers,
    shadow,
)
from rollout.engine.loading import load_model
from rollout.engine.segments import Segments
from rollout.pilot import MODEL_DIR, TEMPLATE_FILE
from rollout.pilot.texts import generate as generate_tickets


@pytest.fixture(scope="module")
def pilot() -> Segments:
    return Segments(load_model(Path(MODEL_DIR)))


@pytest.fixture(scope="module")
def tickets(pilot: Segments) -> list[TextRequest]:
    template = TEMPLATE_FILE.read_text().rstrip("\n")
    texts = [template.replace("{{ text }}", ticket.text) for ticket in generate_tickets(72, seed=0)]
    encoded = pilot.loaded.tokenizer(texts)["input_ids"]
    return [TextRequest(tuple(ids), max_tokens=1) for ids in encoded]


def test_fitted_exits_save_layers_and_keep_their_agreement(
    pilot: Segments, tickets: list[TextRequest]
) -> None:
    exits, forecast = fit_token_exits(pilot, tickets[:48], (3, 5), agreement=0.9, steps=20)
    assert set(exits.layers) <= {3, 5}
    assert forecast.agreement >= 0.9
    assert 0 < forecast.net_saving < 5 / 8
    answers = generate(pilot, tickets[48:], exits)
    compared = shadow(pilot, tickets[48:], answers)
    assert sum(found.share for found in compared) / len(compared) >= 0.8
    depth = pilot.loaded.depth
    # A prompt whose first token exits is itself left unfinished: that is where layers are saved.
    assert sum(answer.work.prompt_layers for answer in answers) < depth * sum(
        answer.prompt_tokens - 1 for answer in answers
    )


def test_a_probe_costs_the_head_and_the_translator(pilot: Segments) -> None:
    loaded = pilot.loaded
    layer = sum(part.weight.numel() for part in _matrices(loaded.layers[0]))
    vocabulary, width = loaded.unembedding.weight.shape
    assert probe_layers(pilot, translator=False) == vocabulary * width / layer
    assert probe_layers(pilot) == (vocabulary + width) * width / layer


def _matrices(layer: torch.nn.Module) -> list[torch.nn.Linear]:
    return [part for part in layer.modules() if isinstance(part, torch.nn.Linear)]


def test_the_untranslated_head_after_the_last_layer_is_the_models_own(segments: Segments) -> None:
    prompt = [5, 6, 7, 8]
    state = segments.advance(segments.start([prompt]), segments.loaded.depth)
    with torch.inference_mode():
        scores, confidence = TokenHead().probe(segments, state.last_hidden)
        logits = segments.loaded.model(torch.tensor([prompt])).logits[:, -1]
    torch.testing.assert_close(scores, logits, atol=1e-5, rtol=1e-5)
    first, second = logits.softmax(-1)[0].topk(2).values
    assert confidence.item() == pytest.approx(float(first - second), abs=1e-5)


def test_a_decaying_threshold_lets_later_tokens_exit_more_easily() -> None:
    exits = TokenExits((2,), (0.8,), decay=4.0)
    levels = [exits.threshold(0, position, 50) for position in range(50)]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] == pytest.approx(0.9 * 0.8 + 0.1)
    assert TokenExits((2,), (0.8,)).threshold(0, 49, 50) == 0.8
    assert TokenExits((2,), (1.0,), decay=4.0).threshold(0, 49, 50) == 1.0


@pytest.mark.parametrize("opens", [True, False])
def test_a_head_is_asked_only_where_its_gate_opens(
    segments: Segments, requests: list[TextRequest], opens: bool
) -> None:
    gate = torch.zeros(segments.loaded.width + 1)
    gate[-1] = 5.0 if opens else -5.0
    head = TokenHead(gate=gate, ask_from=0.5)
    answers = generate(segments, requests, TokenExits((2,), (0.0,), heads={2: head}))
    for answer in answers:
        assert answer.work.probes == (len(answer.tokens) if opens else 0)
        assert set(answer.exit_layers) == {2 if opens else None}
    if not opens:
        assert answers == generate(segments, requests, TokenExits((2,), (1.0,)))
