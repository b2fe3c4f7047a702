"""Exit heads: from hidden states at an exit layer to label scores and a confidence.

Three kinds. `logit_lens`: the model's own final norm and label rows (nostalgebraist 2020,
interpreting GPT). `tuned_lens`: the same behind an affine translator (Belrose et al. 2023, section
3). `label_head`: a linear map straight to the labels, distilled to the full model's answers. It
reads the last token's hidden state and the mean over the text: at an early layer the last token
has not yet gathered what the text says, the other tokens hold it already.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from rollout.engine.criteria import HISTORY, Earlier, Reading, features, judge_logits
from rollout.engine.task import ChoiceTask

HEAD_KINDS = ("logit_lens", "tuned_lens", "label_head")
PARTS = ("weight", "bias", "calibration", "support")


def _no_support() -> Tensor:
    return torch.empty(0, 0)


@dataclass(frozen=True)
class ExitHead:
    """The parameters of one exit.

    Attributes:
        weight: tuned_lens: [width, width], added to the identity. label_head: [labels, 2 * width],
            over the last token's and the mean normed hidden state. logit_lens: empty.
        bias: [width], [labels] or empty.
        calibration: The judge of the criterion's features, [features + 1].
        support: Its kernel expansion, [landmarks, features + 1]; empty where it is linear.
    """

    weight: Tensor
    bias: Tensor
    calibration: Tensor
    support: Tensor = field(default_factory=_no_support)


@dataclass(frozen=True)
class Asked:
    """Answers and log-odds of agreement, [exits, rows]. Log-odds are -inf where labels tie."""

    answer: Tensor
    log_odds: Tensor
    earlier: Earlier | None


@dataclass(frozen=True)
class ExitHeads:
    """The heads of one domain and model revision. `kind` is one of `HEAD_KINDS`."""

    heads: dict[int, ExitHead]
    criterion: str
    model_revision: str
    task_fingerprint: str
    kind: str = "tuned_lens"

    @cached_property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted(self.heads))

    @cached_property
    def _stacked(self) -> ExitHead:
        heads = [self.heads[layer] for layer in self.layers]
        longest = max(head.support.shape[0] for head in heads)
        width = heads[0].calibration.shape[0]
        support = heads[0].calibration.new_zeros(len(heads), longest, width)
        for place, head in enumerate(heads):
            if head.support.shape[0]:
                support[place, : head.support.shape[0]] = head.support
        return ExitHead(
            torch.stack([head.weight for head in heads]),
            torch.stack([head.bias for head in heads]),
            torch.stack([head.calibration for head in heads]),
            support,
        )

    def ask(self, task: ChoiceTask, first: int, seen: Tensor, earlier: Earlier | None) -> Asked:
        """What consecutive exits say.

        Args:
            first: Place of the first of them among `layers`.
            seen: What they look at (`look`), [exits, requests, views, width].
            earlier: What the exit before said of the same requests.
        """
        chosen = slice(first, first + len(seen))
        stacked = self._stacked
        scores = head_scores(self.kind, task, stacked.weight[chosen], stacked.bias[chosen], seen)
        reading = Reading.of(scores, seen[:, :, 0], earlier)
        log_odds = judge_logits(
            features(self.criterion, reading), stacked.calibration[chosen], stacked.support[chosen]
        )
        tied = reading.margin < task.tie
        goes_on = self.criterion in HISTORY and chosen.stop < len(self.layers)
        return Asked(
            reading.answer,
            log_odds.masked_fill(tied, -torch.inf),
            reading.last() if goes_on else None,
        )

    def save(self, folder: Path) -> str:
        """Write the heads under their content hash and return it (SHA-256, hex)."""
        tensors = {
            f"{layer}.{name}": getattr(head, name).detach().cpu().contiguous()
            for layer, head in self.heads.items()
            for name in PARTS
        }
        about = {
            "kind": self.kind,
            "criterion": self.criterion,
            "model_revision": self.model_revision,
            "task_fingerprint": self.task_fingerprint,
        }
        content = safetensors.torch.save(tensors, {"heads": json.dumps(about, sort_keys=True)})
        digest = hashlib.sha256(content).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{digest}.safetensors"
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.write_bytes(content)
            partial.replace(path)
        return digest


def look(kind: str, task: ChoiceTask, hidden: Tensor, weights: Tensor | None) -> Tensor:
    """What a head looks at, [requests, views, width].

    Args:
        hidden: [requests * branches, tokens, width], padded on the left.
        weights: For a label head (`view_weights`), [requests, 2, tokens or more].
    """
    if kind != "label_head":
        return hidden[:, -1].reshape(-1, task.rows_per_request, hidden.shape[-1])
    assert weights is not None
    if task.rows_per_request > 1:
        hidden = hidden[:: task.rows_per_request]
    tokens = hidden.shape[1]
    if weights.shape[2] != tokens:
        weights = weights[:, :, -tokens:]
    return torch.bmm(weights, hidden)


def view_weights(lengths: Sequence[int], tokens: int, like: Tensor) -> Tensor:
    """What each token counts in a label head's two views, [rows, 2, tokens].

    The last token alone; the mean of the last `length` tokens. One product then makes both.
    """
    # In NumPy: of so few numbers a tensor operation costs many times as much.
    length = np.asarray(lengths)[:, None]
    weights = np.zeros((len(lengths), 2, tokens), dtype=np.float32)
    weights[:, 0, -1] = 1.0
    weights[:, 1] = (np.arange(tokens) >= tokens - length) / length
    return torch.from_numpy(weights).to(like.device, like.dtype)


def head_scores(kind: str, task: ChoiceTask, weight: Tensor, bias: Tensor, seen: Tensor) -> Tensor:
    """Label scores [exits, requests, labels], float32, from `seen` [exits, requests, views, width].

    Args:
        weight, bias: Of the exits in order, stacked.
    """
    norm = task.loaded.norm
    if kind == "label_head":
        flat = norm(seen).flatten(-2).float()  # [exits, requests, 2 * width]
        return torch.baddbmm(bias[:, None], flat, weight.transpose(1, 2))
    if kind == "tuned_lens":
        rows = seen.flatten(1, 2)
        seen = (rows + torch.baddbmm(bias[:, None], rows, weight.transpose(1, 2))).view_as(seen)
    scores = task.scores(norm(seen).flatten(0, 2))
    return scores.reshape(*seen.shape[:2], -1)
