"""Train the pilot's tokenizer and its small model: `python -m rollout.pilot.train --out DIR`.

Plain training of the last layer's answer. Nothing here knows of exits: what earlier layers can
tell is what the model happened to learn.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import jinja2
import torch
from rich.progress import Progress
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from rollout.pilot import TEMPLATE_FILE
from rollout.pilot.texts import LABELS, LEVELS, TRAINING_MIX, USUAL_MIX, Ticket, draw

CONTEXT_TOKENS = 256
VOCABULARY = 1024
POOL_BATCHES = 32
"""Batches drawn together and sorted by length, so that little of a batch is padding."""
BASIC_MIX = {level: share for level, share in TRAINING_MIX.items() if USUAL_MIX[level] > 0.01}
"""What training begins with: the unfamiliar levels build on these, and before them are noise."""
EVALUATION_SEED = 990_000
"""Seeds from here on are not used for training."""


TEMPLATE = jinja2.Template(TEMPLATE_FILE.read_text())


def render(text: str) -> str:
    """The prompt of one mail; the label follows it with a leading space."""
    return str(TEMPLATE.render(text=text))


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over mails and labels, digits one token each, padding on the left."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tickets = draw(20_000, TRAINING_MIX, Random(seed))
    corpus = (f"{render(ticket.text)} {ticket.label}" for ticket in tickets)
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
        model_max_length=CONTEXT_TOKENS,
    )


def label_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The one token of each label, in the order of `LABELS`."""
    ids = []
    for label in LABELS:
        tokens = tokenizer.encode(f" {label}", add_special_tokens=False)
        if len(tokens) != 1:
            raise ValueError(f"label {label!r} is {len(tokens)} tokens; it must be one")
        ids.append(int(tokens[0]))
    return ids


def build_model(
    layers: int, width: int, heads: int, tokenizer: PreTrainedTokenizerFast
) -> LlamaForCausalLM:
    """An untrained Llama with tied embeddings."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def batches(
    tokenizer: PreTrainedTokenizerFast, rows: int, random: Random, basics: int
) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Endless (padded prompts, label token ids [rows]), each of mails never drawn before.

    The first `basics` batches, rounded up to whole pools, hold `BASIC_MIX` alone.
    """
    ids = torch.tensor(label_ids(tokenizer))
    drawn = 0
    while True:
        mix = BASIC_MIX if drawn < basics else TRAINING_MIX
        drawn += POOL_BATCHES
        tickets = draw(rows * POOL_BATCHES, mix, random)
        tickets.sort(key=lambda ticket: len(ticket.text))
        starts = list(range(0, len(tickets), rows))
        random.shuffle(starts)
        for start in starts:
            batch = tickets[start : start + rows]
            yield encode(tokenizer, batch), ids[[LABELS.index(one.label) for one in batch]]


def encode(
    tokenizer: PreTrainedTokenizerFast, tickets: Sequence[Ticket]
) -> dict[str, torch.Tensor]:
    """Prompts padded on the left: `input_ids` and `attention_mask`, both [rows, tokens]."""
    prompts = [render(ticket.text) for ticket in tickets]
    encoded = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
    return dict(encoded)


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    steps: int,
    rows: int,
    rate: float,
    basics: int,
    seed: int,
    report_every: int,
) -> None:
    """AdamW with warm-up and cosine decay on the cross-entropy of the label token alone."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    warmup = max(1, min(100, steps // 10))

    def schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    source = batches(tokenizer, rows, Random(seed + 1), basics)
    model.train()
    smooth = math.log(len(LABELS))
    with Progress() as progress:
        bar = progress.add_task("training", total=steps)
        for step in range(steps):
            inputs, targets = next(source)
            hidden = model.model(**inputs).last_hidden_state[:, -1]  # [rows, width]
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            smooth += 0.05 * (loss.item() - smooth)
            progress.update(bar, advance=1, description=f"training, loss {smooth:.3f}")
            if report_every and (step + 1) % report_every == 0:
                progress.print(step + 1, accuracy_by_level(model, tokenizer, 100))
                model.train()


@torch.no_grad()
def accuracy_by_level(
    model: Any, tokenizer: PreTrainedTokenizerFast, count: int, *, seed: int = EVALUATION_SEED
) -> dict[str, float]:
    """Share of right answers on `count` fresh mails of each level, the answer among `LABELS`."""
    model.eval()
    ids = label_ids(tokenizer)
    shares = {}
    for offset, level in enumerate(LEVELS):
        tickets = draw(count, {level: 1.0}, Random(seed + offset))
        tickets.sort(key=lambda ticket: len(ticket.text))
        right = 0
        for start in range(0, count, 100):
            batch = tickets[start : start + 100]
            logits = model(**encode(tokenizer, batch), logits_to_keep=1).logits[:, -1, ids]
            answers = [LABELS[index] for index in logits.argmax(-1).tolist()]
            right += sum(answer == one.label for answer, one in zip(answers, batch, strict=True))
        shares[level] = right / count
    return shares


def model_card(command: str, config: Any, accuracy: Mapping[str, float]) -> str:
    """The README that travels with the weights."""
    table = "\n".join(f"| {level} | {share:.3f} |" for level, share in accuracy.items())
    return f"""# Pilot model

A Llama of {config.num_hidden_layers} layers and width {config.hidden_size}, trained from scratch
on generated support mails (`rollout/pilot/texts.py`) to name the mail's intent. It was trained on
its last layer's answer only. It serves to try a rollout end to end; it knows nothing but these
mails, and nothing after the label token was trained.

Made by:

```
{command}
```

Share of right answers on fresh mails, weights as shipped, in float32:

| level | accuracy |
| --- | --- |
{table}
"""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rollout.pilot.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--rows", type=int, default=64, help="mails in a batch")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--basics", type=int, default=320, help="first steps, usual mails only")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report-every", type=int, default=100, help="steps; 0 for never")
    args = parser.parse_args(argv)

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tokenizer = train_tokenizer(args.seed)
    model = build_model(args.layers, args.width, args.heads, tokenizer)
    train(
        model,
        tokenizer,
        steps=args.steps,
        rows=args.rows,
        rate=args.rate,
        basics=args.basics,
        seed=args.seed,
        report_every=args.report_every,
    )
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)

    shipped = AutoModelForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    accuracy = accuracy_by_level(shipped, tokenizer, 1000)
    command = "python -m rollout.pilot.train " + " ".join(
        f"--{name.replace('_', '-')} {value}" for name, value in vars(args).items()
    )
    (args.out / "README.md").write_text(model_card(command, shipped.config, accuracy))
    for level, share in accuracy.items():
        print(f"{level:12} {share:.3f}")


if __name__ == "__main__":
    main()
