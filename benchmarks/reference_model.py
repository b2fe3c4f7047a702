"""The reference model knows its sets: better than bag of words, and better for its depth.

Accuracy at full depth on held-out rows against TF-IDF with logistic regression on the same split
(every set but mmlu_business, where both are at chance), and against the half-depth twin, trained in
the same way, on the generated tasks. The value is the smallest lead over bag of words.

Training asks the last layer alone, for the answer alone; no earlier layer is trained to answer. Its
help: word pieces and start vectors of a published sentence encoder (MiniLM, 256 principal axes),
half of the loss from soft labels of a linear teacher (cross-fitted on the training rows), the last
hidden state drawn to the encoder's sentence vector, and on the generated tasks the answers on the
way as well as the last. The rest is trained from random weights.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from benchmarks.form import Measured
from benchmarks.reference import load_reference, reference_model_folder
from benchmarks.reference.evaluating import accuracy
from benchmarks.reference.sets import BUSINESS_SETS, HARD_SETS, SETS, TextSet, read_set
from rollout.engine.loading import LoadedModel

HALF = 6
AT_CHANCE = "mmlu_business"
PUBLISHED_BAG_OF_WORDS = {
    "clinc150": 0.80,
    "banking77": 0.89,
    "sst2": 0.81,
    "custrev": 0.77,
    "trec": 0.85,
    "agnews": 0.86,
    "mmlu_business": 0.25,
    "airline_stream": 0.79,
}
"""Of ../shared/data/README.md, on a split of its own."""
QUICK_ROWS = 120
HARD_ROWS = 2000


def measure(quick: bool) -> Measured:
    torch.set_num_threads(2)
    models = {"accuracy": load_reference(), "half_depth": load_reference(HALF)}
    rows = [_row(read_set(name), models, quick) for name in SETS]
    leads = {
        row["set"]: row["accuracy"] - max(row["bag_of_words"], row["published_bag_of_words"])
        for row in rows
        if row["set"] in BUSINESS_SETS and row["set"] != AT_CHANCE
    }
    depth_leads = {
        row["set"]: row["accuracy"] - row["half_depth"] for row in rows if row["set"] in HARD_SETS
    }
    least = min(leads.values())
    return Measured(
        name="reference_model",
        value=round(least, 4),
        unit="smallest lead in accuracy over bag of words",
        bar="> 0 on every set, and full depth beats half depth on the generated tasks",
        holds=least > 0 and min(depth_leads.values()) > 0,
        details={
            "rows": "a sample" if quick else "all held-out rows",
            "accuracy": rows,
            "smallest lead of full over half depth on the generated tasks": round(
                min(depth_leads.values()), 4
            ),
            "training": [_training(depth) for depth in (12, HALF)],
            "training command": "python -m benchmarks.train_reference [--depth 6]",
        },
    )


def _row(text_set: TextSet, models: dict[str, LoadedModel], quick: bool) -> dict[str, Any]:
    most = QUICK_ROWS if quick else HARD_ROWS if text_set.name in HARD_SETS else None
    rows = text_set.held_out[:most]
    shares = {
        name: round(accuracy(loaded.model, loaded.tokenizer, text_set, rows), 4)
        for name, loaded in models.items()
    }
    baseline: dict[str, Any] = {"bag_of_words": None, "teacher": None}
    if text_set.name in BUSINESS_SETS:
        baseline = json.loads((reference_model_folder() / "baselines.json").read_text())[
            text_set.name
        ]
    return {
        "set": text_set.name,
        "labels": len(text_set.labels),
        "rows": len(rows),
        **shares,
        "bag_of_words": _rounded(baseline["bag_of_words"]),
        "published_bag_of_words": PUBLISHED_BAG_OF_WORDS.get(text_set.name),
        "teacher": _rounded(baseline["teacher"]),
    }


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def _training(depth: int) -> dict[str, Any]:
    made = json.loads((reference_model_folder(depth) / "training.json").read_text())
    plan, cost = made["plan"], made["cost"]
    return {
        "layers": depth,
        "width": plan["width"],
        "tokens": cost["tokens"],
        "minutes": round(cost["seconds"] / 60, 1),
        "threads": cost["threads"],
    }
