"""A rollout's folder as `rollout init` leaves it, and the command run in this process."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rollout.cli import main
from rollout.store.session import Store, open_store


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The message of a user's mistake: on standard error alone, with exit code 2."""
        assert (self.code, self.out) == (2, "")
        assert self.err.startswith("error: ")
        assert "Traceback" not in self.err
        return self.err.removeprefix("error: ").rstrip("\n")


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """`run("status", "--json")` as the console script does it."""
    for name in ("ROLLOUT_DATABASE_URL", "ROLLOUT_BROKER_URL", "ROLLOUT_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["rollout", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, printed.out, printed.err)

    return call


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, named by ROLLOUT_HOME."""
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("ROLLOUT_HOME", str(path))
    return path


@pytest.fixture
def home(folder: Path, sqlite_template: Path) -> Path:
    """The folder after `rollout init`; the model is a folder with a config.json."""
    assets = Path(__file__).parents[2] / "rollout" / "cli" / "assets"
    for name, asset in (
        ("rollout.yaml", "rollout.yaml"),
        ("labels/support.txt", "labels.txt"),
        ("prompts/support.j2", "prompt.j2"),
        ("var/rollout.db", sqlite_template),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(assets / asset, folder / name)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def applied(home: Path, run: Run) -> Path:
    """The folder after `rollout apply`: one domain, `support`."""
    assert run("apply").code == 0
    return home


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{home / 'var' / 'rollout.db'}")
    yield opened
    opened.close()
