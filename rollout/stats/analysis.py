"""The result of `rollout analyze`, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from rollout.stats.forecast import Estimate, Forecast
from rollout.stats.layers import LayerCurve, LayerImportance


@dataclass(frozen=True)
class ShotAnalysis:
    """The judging part of a domain's requests under one prompt.

    Attributes:
        shots: Solved examples in front of the prompt.
        rows: Requests that judged.
        left_out: Requests, of all, whose prompt with the examples exceeds the context.
        prompt_tokens: Mean length of the prompt.
        full_accuracy: Of the full model, over the labelled ones; None where there are none.
        no_label_share: Share of requests whose most probable next token, of the whole vocabulary,
            begins no label: a prompt that the model takes for something else.
        lens: Answers read by the logit lens, at every layer.
        calibrated: Answers of label heads distilled to the full model's, at their layers.
        probe_cost: Of one exit of the forecast policy, in layers, as measured here.
        exit_layers, head, criterion: The forecast policy's, as calibration chose them.
    """

    shots: int
    rows: int
    left_out: int
    prompt_tokens: float
    full_accuracy: Estimate | None
    no_label_share: float
    lens: LayerCurve
    calibrated: LayerCurve
    probe_cost: float
    exit_layers: tuple[int, ...]
    head: str
    criterion: str
    forecasts: tuple[Forecast, ...]


@dataclass(frozen=True)
class DomainAnalysis:
    """One domain of the file.

    Attributes:
        rows: Requests used; `labelled` of them with a label.
        examples: The solved examples (text, label) of the few-shot prompts.
        importance: Of each layer, without examples in the prompt.
        skipped_rows: Requests of which each layer was left out once.
    """

    domain: str
    labels: int
    rows: int
    labelled: int
    depth: int
    examples: tuple[tuple[str, str], ...]
    shots: tuple[ShotAnalysis, ...]
    importance: tuple[LayerImportance, ...]
    skipped_rows: int
