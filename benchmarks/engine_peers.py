"""The least compute at equal agreement: ours against the published ways, same model, same prompts.

Peers: transformers' `generate`, its `assistant_early_exit`, the model cut after k layers, and
CALM-style softmax thresholding with propagated keys, asked after every layer as published and,
since probes cost, at our exit layers only. Agreement is per token with the full model under teacher
forcing. Each way takes the best of its own settings at each level of agreement, on the same
held-out prompts; our heads are fitted on other prompts. Prompts, probes, catch-up and rejected
drafts count (benchmarks/reference/text_cost.py says how): `layers` where multiplications bound,
in full batches; `calls` where reading weights does, in small ones. Time is of one answer at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.form import Measured
from benchmarks.reference.text_cost import Cost, cost, counted
from benchmarks.reference.text_subject import Subject, subjects, turns
from rollout.engine.generation import (
    TextRequest,
    TokenExits,
    fit_token_exits,
    generate,
    shadow,
)

EXACT = ("full model (transformers)", "assistant_early_exit (transformers)", "ours, verified")
"""Ways that cannot differ from the full model; agreement of 1 is asked of them alone."""
OURS = ("ours, deferred", "ours, propagated", "ours, verified")
LEVELS = (1.0, 0.99, 0.98, 0.95)
THRESHOLDS = (0.5, 0.65, 0.75, 0.85, 0.9, 0.93, 0.95, 0.97, 1.0)
CALM_THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 0.95)
"""As many for either: a difference of two probabilities runs lower than a probability."""
DRAFTS = (4, 8)
MEASURES = ("layers", "calls")


@dataclass(frozen=True)
class Setting:
    """One way of answering, with its settings, and what it came to on a subject.

    Attributes:
        exits: None where transformers answers.
        draft_layers: Of `assistant_early_exit`; None: plain `generate`.
        layers, calls: Over the full model's.
    """

    way: str
    exits: TokenExits | None = None
    draft_layers: int | None = None
    agreement: float = 1.0
    layers: float = 1.0
    calls: float = 1.0

    @property
    def shown(self) -> str:
        if self.exits is None:
            return "" if self.draft_layers is None else f"drafts from layer {self.draft_layers}"
        return f"layers {self.exits.layers} at {self.exits.thresholds[0]:g}"


def measure(quick: bool) -> Measured:
    torch.set_num_threads(2)
    tables: dict[str, list[dict[str, Any]]] = {}
    times: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    for about in subjects(quick):
        settings = _judge_all(about, quick)
        tables[about.name] = _table(settings)
        for name, ratio in _ratios(settings).items():
            ratios[f"{about.name}: {name}"] = round(ratio, 3)
        times += _times(about, settings, 3 if quick else 4)
    worst = max(ratios.values())
    return Measured(
        name="engine_peers",
        value=worst,
        unit="our compute over the best peer's at equal agreement, worst case",
        bar="<= 1 (1: nobody saves anything)",
        holds=worst <= 1,
        details={"ours over the best peer": ratios, **tables, "seconds, one by one": times},
    )


def _judge_all(about: Subject, quick: bool) -> list[Setting]:
    depth = about.segments.loaded.depth
    # Answers of one token are few places, which least squares alone nearly fits.
    steps = 200 if about.asked[0].max_tokens > 1 and not quick else 40
    fitted, _ = fit_token_exits(
        about.segments, about.fitting, about.candidates, agreement=0.98, steps=steps
    )
    every = tuple(range(1, depth))
    settings = [Setting("full model (transformers)")]
    for layer in about.candidates:
        settings.append(Setting("cut model", TokenExits((layer,), (0.0,))))
    for threshold in CALM_THRESHOLDS[::3] if quick else CALM_THRESHOLDS:
        for way, layers in (("CALM, every layer", every), ("CALM, our layers", fitted.layers)):
            exits = TokenExits(layers, (threshold,) * len(layers), skipped_keys="propagate")
            settings.append(Setting(way, exits))
    for threshold in THRESHOLDS[2::3] if quick else THRESHOLDS:
        ours = replace(fitted, thresholds=(threshold,) * len(fitted.layers))
        settings.append(Setting("ours, deferred", ours))
        settings.append(Setting("ours, propagated", replace(ours, skipped_keys="propagate")))
        if about.asked[0].max_tokens > 1:
            for drafts in DRAFTS:
                verify = replace(ours, mode="verify", draft_tokens=drafts)
                settings.append(Setting("ours, verified", verify))
    if about.asked[0].max_tokens > 1:
        # Both ways of drafting may draft from any of the same layers.
        for layer in about.candidates[: len(about.candidates) // 2 + 1]:
            drafts_from = TokenExits((layer,), (0.2,), mode="verify", draft_tokens=DRAFTS[1])
            settings.append(Setting("ours, verified", drafts_from))
        settings += [
            Setting("assistant_early_exit (transformers)", draft_layers=layer)
            for layer in about.candidates[: len(about.candidates) // 2 + 1]
        ]
    return _judged(about, settings)


def _judged(about: Subject, settings: Sequence[Setting]) -> list[Setting]:
    segments, asked = about.segments, about.asked
    whole = cost(segments, generate(segments, asked), None)
    part = asked[: max(4, len(asked) // 4)]
    whole_part = cost(segments, generate(segments, part), None)
    judged = []
    for setting in settings:
        if setting.exits is None:
            if setting.draft_layers is None:
                judged.append(setting)
                continue
            with counted(segments) as spent:
                for request in part:
                    _transformers(about, setting.draft_layers, request)
            judged.append(_with_cost(setting, spent, whole_part))
            continue
        answers = generate(segments, asked, setting.exits)
        same = [found.by_token for found in shadow(segments, asked, answers)]
        agreement = float(np.mean([one for row in same for one in row]))
        spent = cost(segments, answers, setting.exits)
        judged.append(replace(_with_cost(setting, spent, whole), agreement=agreement))
    return judged


def _with_cost(setting: Setting, spent: Cost, whole: Cost) -> Setting:
    return replace(setting, layers=spent.layers / whole.layers, calls=spent.calls / whole.calls)


def _best(settings: Sequence[Setting], level: float, measure: str) -> Setting | None:
    good = [s for s in settings if s.agreement >= level and (level < 1 or s.way in EXACT)]
    return min(good, key=lambda s: float(getattr(s, measure)), default=None)


def _ratios(settings: Sequence[Setting]) -> dict[str, float]:
    """Our least compute over the peers' least, per level of agreement and measure."""
    ours = [s for s in settings if s.way in OURS]
    peers = [s for s in settings if s.way not in OURS]
    ratios = {}
    for level in LEVELS:
        for measure in MEASURES:
            mine, theirs = _best(ours, level, measure), _best(peers, level, measure)
            # Nothing that answers exactly multiplies less than the full model.
            if mine is None or theirs is None or (level == 1.0 and measure == "layers"):
                continue
            ratios[f"{measure} at {level:g}"] = getattr(mine, measure) / getattr(theirs, measure)
    return ratios


def _table(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """The least compute of each way at each level."""
    rows = []
    for way in dict.fromkeys(s.way for s in settings):
        row: dict[str, Any] = {"way": way}
        for level in LEVELS:
            for measure in MEASURES:
                best = _best([s for s in settings if s.way == way], level, measure)
                value = None if best is None else round(float(getattr(best, measure)), 3)
                row[f"{measure} at {level:g}"] = value
        rows.append(row)
    return rows


def _times(about: Subject, settings: Sequence[Setting], prompts: int) -> list[dict[str, Any]]:
    """Seconds of each way's setting with the fewest calls at 98 % agreement, in turns."""
    chosen = {}
    for way in dict.fromkeys(s.way for s in settings):
        best = _best([s for s in settings if s.way == way], 0.98, "calls")
        if best is not None:
            chosen[way] = best
    ways: dict[str, Callable[[TextRequest], None]] = {
        way: partial(_answer, about, setting) for way, setting in chosen.items()
    }
    seconds = turns(ways, about.asked[:prompts])
    full = seconds["full model (transformers)"]
    return [
        {
            "model": about.name,
            "way": way,
            "setting": chosen[way].shown,
            "agreement": round(chosen[way].agreement, 4),
            "time over full": round(spent / full, 3),
        }
        for way, spent in seconds.items()
    ]


def _answer(about: Subject, setting: Setting, request: TextRequest) -> None:
    if setting.exits is None:
        _transformers(about, setting.draft_layers, request)
    else:
        generate(about.segments, [request], setting.exits)


def _transformers(about: Subject, draft_layers: int | None, request: TextRequest) -> None:
    model: Any = about.segments.loaded.model
    prompt = torch.tensor([request.prompt])
    extra = {} if draft_layers is None else {"assistant_early_exit": draft_layers}
    model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=request.max_tokens,
        do_sample=False,
        **extra,
    )
