"""A choice task: a prompt template and labels, scored by the labels' log-probability."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import jinja2
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from torch import Tensor

from rollout.engine.loading import LoadedModel
from rollout.values import RolloutError

TIE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Label scores, or log-odds of agreement, that are closer than this cannot be told apart.

A row's numbers depend on the rows it shares a batch with by rounding only (1e-5 of the largest
logit in float32). What is this close to a decision continues instead of exiting.
"""

QUANTISED_TIE = 2e-2
"""The same for quantised layers, where a last bit can move a value to the next integer."""


def tie(loaded: LoadedModel) -> float:
    """`TIE` of a model."""
    plain = TIE[loaded.model.dtype]
    return plain if loaded.quantization == "none" else max(plain, QUANTISED_TIE)


class TaskError(RolloutError):
    """A template or label set that cannot be used with this model."""


class BadRequest(RolloutError):
    """A request that cannot be answered: empty or over-long text."""


@dataclass(frozen=True)
class ChoiceTask:
    """Labels and template, compiled for one model.

    A label of one token is scored at the prompt's last token. A longer one needs the model's
    opinion after each of its own tokens: the request then takes one row per distinct beginning of
    a label (`branches`), and full-vocabulary log-probabilities are summed.

    Attributes:
        label_tokens: Token ids of each label as a continuation of the prompt.
        branches: Distinct proper prefixes of the labels' tokens; the first one is empty.
        prefix_tokens: Token ids that every prompt begins with (the template before the text).
        fingerprint: SHA-256 over labels, tokens and template; heads are bound to it.
        label_weight: Unembedding rows of the labels' first tokens, [labels, width].
        label_bias: Their bias, [labels]; None where the model has none.
    """

    loaded: LoadedModel
    labels: tuple[str, ...]
    template: jinja2.Template
    label_tokens: tuple[tuple[int, ...], ...]
    branches: tuple[tuple[int, ...], ...]
    prefix_tokens: tuple[int, ...]
    fingerprint: str
    label_weight: Tensor = field(repr=False, compare=False)
    label_bias: Tensor | None = field(repr=False, compare=False)

    @property
    def rows_per_request(self) -> int:
        return len(self.branches)

    def shared_tokens(self, prompt: Sequence[Sequence[int]]) -> int:
        """How many of an encoded prompt's tokens are the template's beginning: all or none."""
        shared = len(self.prefix_tokens)
        begins = tuple(prompt[0][:shared]) == self.prefix_tokens and len(prompt[0]) > shared
        return shared if begins else 0

    def own_tokens(self, prompt: Sequence[Sequence[int]]) -> int:
        """Tokens of an encoded prompt (its first branch) after the template's beginning."""
        return len(prompt[0]) - self.shared_tokens(prompt)

    @cached_property
    def tie(self) -> float:
        """Scores, or log-odds of agreement, that are closer than this cannot be told apart."""
        return tie(self.loaded)

    def encode(self, text: str) -> list[list[int]]:
        """Token ids of the prompt, once per branch.

        Raises:
            BadRequest: the text is empty, or the prompt is longer than the model's context.
        """
        if not text.strip():
            raise BadRequest("the text is empty: send at least one word")
        tokenizer = self.loaded.tokenizer
        prompt = tokenizer(self.template.render(text=text), verbose=False)["input_ids"]
        longest_branch = max(len(branch) for branch in self.branches)
        room = self.loaded.context_tokens - longest_branch
        if len(prompt) > room:
            raise BadRequest(
                f"the prompt has {len(prompt)} tokens but the model's context takes {room}: "
                "shorten the text"
            )
        return [[*prompt, *branch] for branch in self.branches]

    def scores(self, normed: Tensor) -> Tensor:
        """Label scores from normed hidden states at the rows' last tokens.

        Args:
            normed: [requests * branches, width], request by request.

        Returns:
            [requests, labels], float32: logits where every label is one token (their softmax is
            the labels' relative probability), summed log-probabilities otherwise.
        """
        if self.rows_per_request == 1:
            logits = torch.nn.functional.linear(normed, self.label_weight, self.label_bias)
            return self.loaded.capped(logits).float()
        logits = self.loaded.capped(self.loaded.unembedding(normed))
        log_probabilities = logits.float().log_softmax(-1)
        vocabulary = log_probabilities.shape[-1]
        per_request = log_probabilities.reshape(-1, self.rows_per_request, vocabulary)
        columns = []
        for tokens in self.label_tokens:
            branch = [self.branches.index(tokens[:place]) for place in range(len(tokens))]
            columns.append(per_request[:, branch, list(tokens)].sum(-1))
        return torch.stack(columns, dim=-1)

    def top_is_label(self, normed: Tensor) -> Tensor:
        """Whether the most probable next token of the whole vocabulary begins a label, [requests].

        Args:
            normed: As in `scores`.
        """
        first = torch.tensor([tokens[0] for tokens in self.label_tokens], device=normed.device)
        top = self.loaded.unembedding(normed[:: self.rows_per_request]).argmax(-1)
        return torch.isin(top, first)


def compile_task(loaded: LoadedModel, labels: Sequence[str], template: str) -> ChoiceTask:
    """Tokenise the labels as the template's continuation and check that they can be told apart.

    A label with which another one begins is told from it by the tokenizer's end token: its score
    is the probability that the answer ends there.

    Raises:
        TaskError: the template does not use `text`, labels tokenise alike, or one begins with
            another and the tokenizer has no end token.
    """
    compiled = _compile_template(template)
    label_tokens = tuple(_continuation(loaded, compiled, label) for label in labels)
    label_tokens = _told_apart(loaded, labels, label_tokens)
    branches = tuple(
        dict.fromkeys(tokens[:place] for tokens in label_tokens for place in range(len(tokens)))
    )
    # Gathered once: at every probe it would cost a copy, and on CUDA a synchronisation.
    first_tokens = torch.tensor([tokens[0] for tokens in label_tokens], device=loaded.device)
    bias = loaded.unembedding.bias
    content = repr((tuple(labels), label_tokens, template)).encode()
    return ChoiceTask(
        loaded,
        tuple(labels),
        compiled,
        label_tokens,
        tuple(sorted(branches, key=len)),
        _common_prefix(loaded, compiled),
        hashlib.sha256(content).hexdigest(),
        loaded.unembedding.weight[first_tokens],
        None if bias is None else bias[first_tokens],
    )


def _told_apart(
    loaded: LoadedModel, labels: Sequence[str], label_tokens: tuple[tuple[int, ...], ...]
) -> tuple[tuple[int, ...], ...]:
    end = loaded.tokenizer.eos_token_id
    told = list(label_tokens)
    for place, tokens in enumerate(label_tokens):
        for other, other_tokens in enumerate(label_tokens):
            if other == place or other_tokens[: len(tokens)] != tokens:
                continue
            if end is None or other_tokens == tokens:
                raise TaskError(
                    f"label {labels[place]!r} has tokens {list(tokens)}, with which label "
                    f"{labels[other]!r} ({list(other_tokens)}) begins: the model cannot tell them "
                    "apart; rename one"
                )
            told[place] = (*tokens, int(end))
    return tuple(told)


def _common_prefix(loaded: LoadedModel, template: jinja2.Template) -> tuple[int, ...]:
    """Tokens with which prompts begin whatever the text; each prompt is checked again."""
    rendered = [template.render(text=text) for text in ("a", "Zebra 7", "(", "\u65e5\u672c")]
    prompts = [loaded.tokenizer(prompt)["input_ids"] for prompt in rendered]
    alike = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    # Not the last one, often a space, which merges with what many a text begins with.
    return tuple(tokens[0] for tokens in alike)[:-1]


def _compile_template(template: str) -> jinja2.Template:
    # Templates come from a person's repository, texts from customers: neither may run code.
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=False, autoescape=False
    )
    try:
        compiled = environment.from_string(template)
        if "\x00" not in compiled.render(text="\x00"):
            raise TaskError("the prompt template never uses {{ text }}")
    except jinja2.TemplateError as error:
        raise TaskError(f"the prompt template is broken: {error}") from error
    return compiled


def _continuation(loaded: LoadedModel, template: jinja2.Template, label: str) -> tuple[int, ...]:
    prompt_text = template.render(text="a").rstrip(" ")
    prompt = loaded.tokenizer(prompt_text)["input_ids"]
    whole = loaded.tokenizer(f"{prompt_text} {label}")["input_ids"]
    if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
        raise TaskError(
            f"label {label!r} merges with the end of the prompt template when tokenised: "
            "end the template with a word or a colon"
        )
    return tuple(whole[len(prompt) :])
