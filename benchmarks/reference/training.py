"""The training loop: the last layer's answer alone, resumable to the same weights.

The loss is asked of the last layer only, at the answers' positions only: the cross-entropy of the
true label over the whole vocabulary, mixed with the teacher's soft labels, and the cosine distance
of a linear map of the last hidden state to the encoder's sentence vector. No layer before the last
is trained to answer: what an early exit can do is what the model happens to know by then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.reference.examples import Asked, Prompt, batches
from benchmarks.reference.preparing import CONTEXT_TOKENS, Prepared

SOFT_SHARE = 0.5
VECTOR_WEIGHT = 2.0
START_SCALE = 0.3
KEEP_EVERY_S = 120.0


@dataclass(frozen=True)
class Plan:
    """Everything that decides the trained weights, besides the prepared data.

    Attributes:
        pools: Parts of the run; the sets' epochs are spread evenly over them.
        batch_tokens: Padded tokens of a batch, about.
        epochs_scale: Multiplies the epochs of all sets.
    """

    depth: int = 12
    width: int = 256
    inner: int = 512
    heads: int = 4
    pools: int = 200
    batch_tokens: int = 2048
    epochs_scale: float = 1.0
    rate: float = 1e-3
    warmup: float = 0.03
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """Where a run stands: `done` of `1`, the smoothed loss, tokens and seconds so far."""

    done: float
    loss: float
    tokens: int
    seconds: float


def build_model(plan: Plan, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of the plan's size, untied; the same seed gives the same weights."""
    torch.manual_seed(plan.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.width,
        intermediate_size=plan.inner,
        num_hidden_layers=plan.depth,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    # The fused kernel's bfloat16 backward is slow on a processor: half as many tokens a second.
    model.set_attn_implementation("eager")
    return model


def train(
    plan: Plan,
    prepared: Prepared,
    folder: Path,
    report: Callable[[Progress], None] = lambda progress: None,
    stop_after: float = math.inf,
) -> LlamaForCausalLM:
    """Train to the plan's end, from the checkpoint in `folder` where there is one.

    Args:
        report: Called after each step.
        stop_after: Seconds after which to stop early, with a checkpoint (for tests).

    Raises:
        ValueError: the checkpoint is of another plan.
    """
    model = build_model(plan, prepared.tokenizer)
    model.model.embed_tokens.weight.data.copy_(
        torch.from_numpy(prepared.start_vectors) * START_SCALE
    )
    vector_width = next(iter(prepared.lessons.values())).vectors.shape[1]
    to_vector = nn.Linear(plan.width, vector_width)
    parameters = [*model.parameters(), *to_vector.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    parts: dict[str, Any] = {"model": model, "to_vector": to_vector, "optimizer": optimizer}
    file = folder / "checkpoint.pt"
    pool, step, loss, tokens, seconds = _restore(file, plan, parts)
    started = saved = time.monotonic()

    def keep(pool: int, step: int) -> None:
        spent = seconds + time.monotonic() - started
        state = {name: part.state_dict() for name, part in parts.items()}
        where = {"pool": pool, "step": step, "loss": loss, "tokens": tokens, "seconds": spent}
        partial = file.with_suffix(".partial")
        torch.save({**state, "where": where, "plan": asdict(plan)}, partial)
        partial.replace(file)

    folder.mkdir(parents=True, exist_ok=True)
    model.train()
    sources = {
        name: type(source)(source.rows, source.epochs * plan.epochs_scale, source.drops_words)
        for name, source in prepared.sources.items()
    }
    while pool < plan.pools:
        made = batches(sources, pool, plan.pools, plan.batch_tokens, plan.seed)
        usual_rows = sum(len(batch) for batch in made) / len(made)
        for step in range(step, len(made)):  # noqa: B020
            done = (pool + step / len(made)) / plan.pools
            for group in optimizer.param_groups:
                group["lr"] = plan.rate * _rate_share(done, plan.warmup)
            batch = made[step]
            value = _loss(model, to_vector, batch, prepared) / usual_rows
            value.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            per_row = value.item() * usual_rows / len(batch)
            loss = per_row if tokens == 0 else loss + 0.02 * (per_row - loss)
            tokens += sum(len(prompt.tokens) for prompt in batch)
            now = time.monotonic()
            report(Progress(done, loss, tokens, seconds + now - started))
            if now - started > stop_after:
                keep(pool, step + 1)
                return model
            if now - saved > KEEP_EVERY_S:
                keep(pool, step + 1)
                saved = now
        pool, step = pool + 1, 0
    keep(pool, 0)
    report(Progress(1.0, loss, tokens, seconds + time.monotonic() - started))
    return model


def _restore(file: Path, plan: Plan, parts: dict[str, Any]) -> tuple[int, int, float, int, float]:
    if not file.exists():
        return 0, 0, 0.0, 0, 0.0
    kept = torch.load(file, weights_only=True)
    if kept["plan"] != asdict(plan):
        raise ValueError(f"{file} is of another plan, {kept['plan']}: remove it to start anew")
    for name, part in parts.items():
        part.load_state_dict(kept[name])
    where = kept["where"]
    return where["pool"], where["step"], where["loss"], where["tokens"], where["seconds"]


def _rate_share(done: float, warmup: float) -> float:
    if done < warmup:
        return (done + 1e-3) / (warmup + 1e-3)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def _loss(
    model: LlamaForCausalLM, to_vector: nn.Linear, batch: list[Prompt], prepared: Prepared
) -> Tensor:
    """Summed over the batch's answers; an answer on the way counts less than a final one."""
    longest = max(len(prompt.tokens) for prompt in batch)
    # Padded on the right, where a causal model never looks: no mask is needed.
    ids = torch.tensor([prompt.tokens + [0] * (longest - len(prompt.tokens)) for prompt in batch])
    asked = [(row, one) for row, prompt in enumerate(batch) for one in prompt.asked]
    rows = torch.tensor([row for row, _ in asked])
    positions = torch.tensor([one.position for _, one in asked])
    targets = torch.tensor([one.token for _, one in asked])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[rows, positions]
        logits = model.lm_head(hidden)
        taught = [place for place, (_, one) in enumerate(asked) if one.source in prepared.lessons]
        predicted = to_vector(hidden[taught])
    log_probabilities: Tensor = logits.float().log_softmax(-1)  # [answers, vocabulary]
    hard: Tensor = -log_probabilities.gather(-1, targets[:, None]).squeeze(-1)
    weight = torch.tensor([1.0 if one.final else 0.3 for _, one in asked])
    if not taught:
        return (hard * weight).sum()
    soft_tokens, soft, vectors = _targets([asked[place][1] for place in taught], prepared)
    soft_loss = -(log_probabilities[taught].gather(-1, soft_tokens) * soft).sum(-1)
    mix = torch.zeros(len(asked)).index_fill(0, torch.tensor(taught), SOFT_SHARE)
    distance = 1 - nn.functional.cosine_similarity(predicted.float(), vectors)
    return (
        (hard * weight * (1 - mix)).sum()
        + SOFT_SHARE * soft_loss.sum()
        + VECTOR_WEIGHT * distance.sum()
    )


def _targets(asked: list[Asked], prepared: Prepared) -> tuple[Tensor, Tensor, Tensor]:
    """Label tokens and the teacher's probabilities [answers, most labels], sentence vectors."""
    lessons = [prepared.lessons[one.source] for one in asked]
    most = max(len(lesson.label_tokens) for lesson in lessons)
    tokens = np.zeros((len(asked), most), dtype=np.int64)
    soft = np.zeros((len(asked), most), dtype=np.float32)
    for place, (lesson, one) in enumerate(zip(lessons, asked, strict=True)):
        count = len(lesson.label_tokens)
        tokens[place, :count] = lesson.label_tokens
        soft[place, :count] = lesson.soft[one.row]
    vectors = np.stack(
        [lesson.vectors[one.row] for lesson, one in zip(lessons, asked, strict=True)]
    )
    return torch.from_numpy(tokens), torch.from_numpy(soft), torch.from_numpy(vectors)
