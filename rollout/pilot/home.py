"""The pilot's folder: its rollout.yaml, labels and prompt."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from rollout.values import RolloutError

DOMAIN = "billing"


def free_folder(wanted: Path) -> Path:
    """`wanted`, or the first of `wanted-2`, `wanted-3`, ... that is not taken: nothing is lost."""
    number, folder = 1, wanted
    while folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
        if number > 1000:
            raise RolloutError(f"{wanted} and 1000 folders named after it are taken: use --to")
    return folder


def write_home(folder: Path) -> None:
    """Write the pilot's configuration; the model is read where the package has it."""
    package = files("rollout.pilot")
    for name in ("labels/billing.txt", "prompts/billing.j2"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(package.joinpath("assets", name).read_text("utf-8"), encoding="utf-8")
    template = package.joinpath("assets", "rollout.yaml").read_text("utf-8")
    model = Path(str(package.joinpath("model"))).resolve()
    (folder / "rollout.yaml").write_text(template.replace("MODEL_FOLDER", str(model)), "utf-8")
    (folder / "var").mkdir(exist_ok=True)
