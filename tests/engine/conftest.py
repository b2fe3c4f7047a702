"""A tiny random Llama with a real tokenizer, made once a session: exactness needs no training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rollout.engine.loading import LoadedModel, load_model
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask, compile_task

WORDS = "please refund my invoice and cancel the old plan before the next payment of march".split()
LABELS = ("refund", "invoice", "payment", "cancel")
TEMPLATE = "mail : {{ text }}\nintent :"


@pytest.fixture(scope="session")
def save_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Writes a random model of 6 layers, seeded, to a new folder."""

    def save(seed: int) -> Path:
        folder = tmp_path_factory.mktemp("model")
        tokenizer = Tokenizer(models.BPE(unk_token=None))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=["<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(
            [" ".join(WORDS), "mail : intent :", " ".join(LABELS)], trainer
        )
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(
            folder
        )
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.3,
            pad_token_id=0,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def model_folder(save_model: Callable[[int], Path]) -> Path:
    return save_model(0)


@pytest.fixture(scope="session")
def loaded(model_folder: Path) -> LoadedModel:
    return load_model(model_folder)


@pytest.fixture(scope="session")
def segments(loaded: LoadedModel) -> Segments:
    return Segments(loaded)


@pytest.fixture(scope="session")
def task(loaded: LoadedModel) -> ChoiceTask:
    return compile_task(loaded, LABELS, TEMPLATE)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    generator = torch.Generator().manual_seed(1)
    return [
        " ".join(
            WORDS[index]
            for index in torch.randint(len(WORDS), (3 + row % 12,), generator=generator).tolist()
        )
        for row in range(240)
    ]
