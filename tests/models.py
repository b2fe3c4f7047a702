"""A tiny random model with a real tokenizer: exactness, exits and refusals need no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from rollout.engine.costs import LoopCosts

WORDS = "please refund my invoice and cancel the old plan before the next payment of march".split()
LABELS = ("refund", "invoice", "payment", "cancel")
EAGER = LoopCosts(call_ms=1e6, token_ms=1.0, gather_ms=0.0)
"""One batch for all, and whoever is done is taken out at once."""
TEMPLATE = "mail : {{ text }}\nintent :"

OF_ITS_OWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 4},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 3.0},
    "gemma3_text": {"head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 5.0},
    "gpt_neox": {"use_parallel_residual": True, "rotary_pct": 0.5},
    "gpt2": {"bos_token_id": 0, "eos_token_id": 0},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 16},
    "phi": {"partial_rotary_factor": 0.5},
}
"""Every family the engine takes, with what only its own configuration has."""


def save_model(folder: Path, seed: int, family: str = "llama", **of_its_own: Any) -> Path:
    """Write a random model of 6 layers to the folder; the same seed gives the same model.

    Args:
        family: Model type, such as llama or qwen3.
        of_its_own: What only that family's configuration has.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS), "mail : intent :", " ".join(LABELS)], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family,
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=0,
        **of_its_own,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def random_texts(count: int, seed: int = 1) -> list[str]:
    """Texts of 3 to 14 known words."""
    generator = torch.Generator().manual_seed(seed)
    return [
        " ".join(
            WORDS[index]
            for index in torch.randint(len(WORDS), (3 + row % 12,), generator=generator).tolist()
        )
        for row in range(count)
    ]
