"""A small Llama that writes text: trained once in a few minutes, then kept outside the repository.

It learns both ways between a customer's sentence and its intent, on banking77, so that it
continues prompts by whole sentences as well as by short answers. Training adds the loss of one
earlier layer a step, read by the model's own head (LayerSkip, Elhoushi et al. 2024, section 4.1.2):
the logit lens and `assistant_early_exit` work on such a model as their authors mean them to.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.reference.sets import read_set

FOLDER = Path.home() / ".cache" / "early-exit-rollout" / "text-model"
SET = "banking77"
VOCABULARY = 1024
DEPTH = 8
END, PAD = 1, 0
BATCH, LENGTH = 16, 64
EARLY_WEIGHT = 0.5


def text_model(*, steps: int = 600, seed: int = 0) -> Path:
    """The model's folder; trained now where it is absent (about 5 minutes on one free core).

    Raises:
        RolloutError: the folder of the business texts is absent.
    """
    if not (FOLDER / "config.json").is_file():
        partial = FOLDER.with_suffix(".partial")
        train(partial, steps=steps, seed=seed)
        partial.rename(FOLDER)
    return FOLDER


def lines(*, held_out: bool) -> list[tuple[str, str]]:
    """(prompt, continuation) pairs, both ways, in a fixed random order."""
    pairs = []
    texts = read_set(SET)
    for row in texts.held_out if held_out else texts.train:
        intent = row.label.replace("_", " ")
        pairs.append((f"intent: {intent}\ncustomer:", f" {row.text}"))
        pairs.append((f"customer: {row.text}\nintent:", f" {intent}"))
    random.Random(0).shuffle(pairs)
    return pairs


def train(folder: Path, *, steps: int, seed: int) -> None:
    """Train on packed lines and write the checkpoint."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    texts = [prompt + answer for prompt, answer in lines(held_out=False)]
    tokenizer = _tokenizer(texts)
    tokenizer.save_pretrained(folder)
    packed = [token for ids in tokenizer(texts)["input_ids"] for token in (*ids, END)]
    rows = torch.tensor(packed[: len(packed) // LENGTH * LENGTH]).reshape(-1, LENGTH)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=DEPTH,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=END,
        eos_token_id=END,
    )
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, steps, pct_start=0.05)
    started = time.monotonic()
    order = torch.randperm(len(rows))
    for step in range(steps):
        if (step + 1) * BATCH % len(rows) < BATCH:
            order = torch.randperm(len(rows))
        batch = rows[order[torch.arange(step * BATCH, (step + 1) * BATCH) % len(rows)]]
        early = int(torch.randint(1, DEPTH, ()))
        with torch.autocast("cpu", torch.bfloat16):
            output = model.model(input_ids=batch, output_hidden_states=True, use_cache=False)
            full = model.lm_head(output.last_hidden_state)
            exited = model.lm_head(model.model.norm(output.hidden_states[early]))
        loss = _loss(full, batch)
        optimiser.zero_grad()
        torch.autograd.backward(loss + EARLY_WEIGHT * _loss(exited, batch))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 25 == 0 or step == steps - 1:
            seconds = time.monotonic() - started
            print(
                f"text model: step {step + 1}/{steps}, loss {loss:.2f}, {seconds:.0f} s", flush=True
            )
    model.train(False).save_pretrained(folder)


def _loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten()
    )


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", bos_token="<end>"
    )


if __name__ == "__main__":
    print(text_model())
