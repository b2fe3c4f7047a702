"""The installed console script, as a process: streams, signals, pipes and what it loads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(sys.executable).with_name("rollout")
HEAVY = ("torch", "transformers", "matplotlib", "celery")


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    ours = {key: value for key, value in os.environ.items() if not key.startswith("ROLLOUT_")}
    return ours | {"ROLLOUT_HOME": str(folder)}


def script(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )


def test_a_mistake_goes_to_standard_error_with_exit_code_2(environment: dict[str, str]) -> None:
    found = script(environment, "status")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("error: there is no database")


def test_light_commands_load_neither_models_nor_brokers(
    environment: dict[str, str], applied: Path
) -> None:
    program = (
        "import sys\n"
        "from rollout.cli import app\n"
        f"for line in {[['status'], ['plan'], ['history', 'support'], ['kill-switch', 'off']]!r}:\n"
        "    app(line, standalone_mode=False)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert found.stdout.splitlines()[-1] == "[]", found.stderr


def test_an_interrupt_ends_watching_quietly(environment: dict[str, str], applied: Path) -> None:
    watching = subprocess.Popen(
        [SCRIPT, "status", "--watch"],
        env=environment | {"TTY_COMPATIBLE": "1", "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    while "support" not in watching.stdout.readline():
        assert watching.poll() is None
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=20)
    assert (watching.returncode, err) == (130, "")


def test_a_reader_that_leaves_early_is_no_error_message(
    environment: dict[str, str], applied: Path
) -> None:
    writing = subprocess.Popen(
        [SCRIPT, "status", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert writing.stdout is not None and writing.stderr is not None
    writing.stdout.close()
    err = writing.stderr.read()
    writing.stderr.close()
    writing.wait(timeout=20)
    assert err == ""


def test_without_a_broker_a_request_fails_soon_and_says_what_to_start(
    environment: dict[str, str], applied: Path
) -> None:
    began = time.monotonic()
    found = script(environment, "classify", "support", "refund me")
    assert found.returncode == 2
    assert "the broker does not answer" in found.stderr
    assert "start `rollout worker`" in found.stderr
    assert time.monotonic() - began < 20


def test_without_a_worker_a_request_times_out_and_can_be_asked_again(
    environment: dict[str, str], applied: Path, redis_url: str
) -> None:
    # A database number that no worker of another test reads.
    broker = f"{redis_url.rsplit('/', 1)[0]}/14"
    found = script(
        environment | {"ROLLOUT_BROKER_URL": broker},
        *("classify", "support", "refund me", "--timeout-s", "0.5", "--request-id", "r-1"),
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert "no answer to request r-1 within 0.5 s: is a worker running?" in found.stderr


def test_a_request_is_answered_by_a_worker_or_refused_with_its_reason(
    environment: dict[str, str], home: Path
) -> None:
    from tests.models import LABELS, TEMPLATE, save_model

    save_model(home / "model", seed=0)
    (home / "labels" / "support.txt").write_text("\n".join(LABELS))
    (home / "prompts" / "support.j2").write_text(TEMPLATE)
    assert script(environment, "apply").returncode == 0
    log = home / "worker.log"
    with log.open("wb") as file:
        worker = subprocess.Popen(
            [SCRIPT, "worker", "-Q", "serve"],
            env=environment | {"OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=file,
        )
    try:
        deadline = time.monotonic() + 90
        while b" ready." not in log.read_bytes():
            assert worker.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        asked = script(environment, "classify", "support", "refund my invoice", "--json")
        empty = script(environment, "classify", "support", " ")
        long = script(environment, "classify", "support", "refund " * 200)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(timeout=30)
    assert json.loads(asked.stdout)["answer"] in LABELS
    assert (empty.returncode, empty.stdout) == (2, "")
    assert empty.stderr == "error: the text is empty: send at least one word\n"
    assert long.returncode == 2
    assert "the model's context takes 64: shorten the text" in long.stderr
