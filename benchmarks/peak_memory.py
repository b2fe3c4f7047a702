"""Serving's peak memory over the plain model's: answer_batch with heads and traces, one forward.

A random Llama of 12 layers, d=512, is served in one process and run by transformers alone in
another; each loads it from its folder and says how large it grew (peak resident set).
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.form import Measured

if TYPE_CHECKING:
    # Each process imports what it runs, and nothing else.
    from rollout.engine.segments import Segments
    from rollout.engine.task import ChoiceTask

BAR = 1.1
DEPTH, WIDTH, ROWS = 12, 512, 32
EXIT_LAYERS = (3, 6, 9)
MEGABYTE_IN_KIB = 1024


def measure(quick: bool) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        digest = _prepare(Path(folder))
        peaks: dict[str, list[float]] = {"plain": [], "serving": []}
        for _ in range(1 if quick else 3):
            for way, measured in peaks.items():
                measured.append(_peak_mb(way, folder, digest))
    plain, serving = (min(peaks[way]) for way in ("plain", "serving"))
    value = serving / plain
    return Measured(
        name="peak_memory",
        value=round(value, 3),
        unit="peak resident set of serving over the plain model's",
        bar=f"<= {BAR}",
        holds=value <= BAR,
        details={
            "model": f"Llama, {DEPTH} layers, d={WIDTH}, float32",
            "rows": ROWS,
            "exit layers": EXIT_LAYERS,
            "plain_mb": round(plain),
            "serving_mb": round(serving),
        },
    )


def _prepare(folder: Path) -> str:
    """Write the model with the pilot's tokenizer, and heads fitted to it; their content hash."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rollout.engine.calibration import calibrate
    from rollout.engine.loading import load_model
    from rollout.engine.segments import Segments
    from rollout.pilot import MODEL_DIR
    from rollout.pilot.texts import generate

    for path in MODEL_DIR.glob("tokenizer*"):
        shutil.copy(path, folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=WIDTH // 64,
        num_key_value_heads=WIDTH // 64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    segments = Segments(load_model(folder))
    texts = [ticket.text for ticket in generate(24, seed=1)]
    fitted = calibrate(segments, _task(segments), texts, exit_layers=EXIT_LAYERS, head="label_head")
    return fitted.heads.save(folder / "heads")


def _peak_mb(way: str, folder: str, digest: str) -> float:
    command = [sys.executable, "-m", "benchmarks.peak_memory", way, folder, digest]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1]) / MEGABYTE_IN_KIB


def _plain(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rollout.pilot.texts import generate

    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = [ticket.text for ticket in generate(ROWS, seed=0)]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.inference_mode():
        for _ in range(3):
            model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                use_cache=False,
                logits_to_keep=1,
            )


def _serving(folder: Path, digest: str) -> None:
    import torch

    from rollout.control.sections import ModelSpec
    from rollout.engine.choice import RowPlan, answer_batch
    from rollout.engine.heads_file import load_heads
    from rollout.pilot.texts import generate
    from rollout.serving.model import load_checked
    from rollout.values import ExitPolicy

    torch.set_num_threads(2)
    segments = load_checked(folder, ModelSpec(id="."))
    task = _task(segments)
    heads = load_heads(folder / "heads", digest, task)
    policy = ExitPolicy(
        *("", 1, heads.layers, (0.9,) * len(heads.layers), digest),
        *(heads.criterion, heads.model_revision, DEPTH),
    )
    prompts = [task.encode(ticket.text) for ticket in generate(ROWS, seed=0)]
    # Early rows that are shadowed and control rows: all of them leave a trace.
    plans = [RowPlan(may_exit=row % 2 == 0, run_on=True) for row in range(ROWS)]
    for _ in range(3):
        results = answer_batch(segments, task, prompts, plans, policy, heads)
        assert all(result.trace is not None for result in results)


def _task(segments: Segments) -> ChoiceTask:
    from rollout.engine.task import compile_task
    from rollout.pilot import LABELS_FILE

    return compile_task(segments.loaded, LABELS_FILE.read_text().split(), "{{ text }} :")


if __name__ == "__main__":
    if sys.argv[1] == "plain":
        _plain(Path(sys.argv[2]))
    else:
        _serving(Path(sys.argv[2]), sys.argv[3])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
