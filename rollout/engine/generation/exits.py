"""Where and when a token may leave the model, and the heads that say so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from rollout.engine.criteria import Reading
from rollout.engine.generation.passes import SkippedKeys
from rollout.engine.segments import Segments
from rollout.values import PolicyError

Mode = Literal["early", "verify"]


@dataclass(frozen=True)
class TokenHead:
    """Turns hidden states at one layer into vocabulary scores and a confidence.

    Attributes:
        weight: Translator of the tuned lens (Belrose et al. 2023, section 3), [width, width], added
            to the identity; None: the logit lens.
        bias: [width].
        gate: Weights on the hidden state itself, intercept last, [width + 1]: a classifier of
            agreement (CALM, section 3.5), nothing against a vocabulary head of up to several
            layers. The head is only asked where it reaches `ask_from`. None: always.
        calibration: Logistic weights of `features`, intercept last, [4]; None: the difference of
            the two highest probabilities (CALM, section 3.5, softmax response).
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    calibration: Tensor | None = None
    gate: Tensor | None = None
    ask_from: float = 0.0

    def worth_asking(self, hidden: Tensor) -> list[bool]:
        """Per row of hidden states [rows, width]; one read-back from the device."""
        if self.gate is None:
            return [True] * len(hidden)
        asks: list[bool] = (torch.sigmoid(self.gate_odds(hidden)) >= self.ask_from).tolist()
        return asks

    def gate_odds(self, hidden: Tensor) -> Tensor:
        """Log-odds of agreement by the hidden state alone, [rows]; 0 without a gate."""
        if self.gate is None:
            return torch.zeros(len(hidden), device=hidden.device)
        return hidden.float() @ self.gate[:-1] + self.gate[-1]

    def probe(self, segments: Segments, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [rows, vocabulary] and confidence [rows] from hidden states [rows, width]."""
        scores = self.scores(segments, hidden)
        if self.calibration is None:
            first, second = scores.float().softmax(-1).topk(2, dim=-1).values.unbind(-1)
            return scores, first - second
        values = self.features(scores, hidden)
        return scores, torch.sigmoid(values @ self.calibration[:-1] + self.calibration[-1])

    def features(self, scores: Tensor, hidden: Tensor) -> Tensor:
        """The best token's log-odds and log-margin, and the gate's log-odds, [rows, 3]."""
        reading = Reading.of(scores[None].float(), hidden[None], None)
        return torch.stack([reading.log_odds[0], reading.margin[0], self.gate_odds(hidden)], -1)

    def scores(self, segments: Segments, hidden: Tensor) -> Tensor:
        if self.weight is not None and self.bias is not None:
            hidden = hidden + hidden @ self.weight.T + self.bias
        return segments.logits(hidden)


@dataclass(frozen=True)
class TokenExits:
    """How the tokens of an answer may exit.

    Attributes:
        layers: Exit layers, rising, each in [1, depth - 1].
        thresholds: One per exit layer, in [0, 1]; a token exits where its confidence is at least
            this. 1 never exits, since a confidence never is certainty.
        heads: By layer; a layer without one is read by the logit lens.
        skipped_keys: What becomes of the keys and values of the layers a token skipped.
        mode: `early` gives the exit's token; `verify` only drafts it, and the full model decides
            (self-speculation: Elhoushi et al. 2024, LayerSkip, section 4.3).
        draft_tokens: Tokens drafted at most before the full model is asked.
        decay: Temperature of the threshold's decay along the answer; None: constant.
    """

    layers: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()
    heads: Mapping[int, TokenHead] = field(default_factory=dict)
    skipped_keys: SkippedKeys = "deferred"
    mode: Mode = "early"
    draft_tokens: int = 8
    decay: float | None = None

    def check(self, depth: int) -> None:
        """Raises:
        PolicyError: exits that this model, or any, cannot serve.
        """
        if len(self.layers) != len(self.thresholds):
            raise PolicyError(
                f"token exits: {len(self.layers)} exit layers but {len(self.thresholds)} "
                "thresholds; give one threshold per exit layer"
            )
        if list(self.layers) != sorted(set(self.layers)):
            raise PolicyError(f"token exits: exit layers {self.layers} must rise")
        for layer, threshold in zip(self.layers, self.thresholds, strict=True):
            if not 1 <= layer < depth:
                raise PolicyError(
                    f"token exits: exit layer {layer} is outside 1 to {depth - 1} "
                    f"(the model has {depth} layers)"
                )
            if not 0.0 <= threshold <= 1.0:
                raise PolicyError(
                    f"token exits: threshold {threshold} at layer {layer} is outside [0, 1]"
                )
        if self.decay is not None and not (math.isfinite(self.decay) and self.decay >= 0):
            raise PolicyError(f"token exits: decay {self.decay} must be 0 or above it")
        if self.mode == "verify" and self.skipped_keys != "deferred":
            raise PolicyError(
                "token exits: verify needs skipped_keys 'deferred': only exact keys and values "
                "give the full model's own answer"
            )
        if self.draft_tokens < 1:
            raise PolicyError(f"token exits: draft_tokens {self.draft_tokens} is below 1")

    def threshold(self, exit_number: int, position: int, max_tokens: int) -> float:
        """The threshold for the token at this position of the answer (from 0).

        With decay tau it is clip(0.9 lambda + 0.1 exp(-tau t / N)) in [0, 1] (CALM, equation 5).

        >>> exits = TokenExits((2,), (0.9,), decay=4.0)
        >>> [round(exits.threshold(0, t, 100), 3) for t in (0, 50, 100)]
        [0.91, 0.824, 0.812]
        """
        threshold = self.thresholds[exit_number]
        # Never to exit is no threshold that could decay.
        if self.decay is None or threshold >= 1:
            return threshold
        late = math.exp(-self.decay * position / max_tokens)
        return min(1.0, max(0.0, 0.9 * threshold + 0.1 * late))
