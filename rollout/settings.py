"""Where things are: three environment variables, and what follows from them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from the environment (`ROLLOUT_HOME`, `ROLLOUT_DATABASE_URL`, `ROLLOUT_BROKER_URL`).

    The embedded default needs no service: SQLite and a Redis-compatible server from a wheel.
    """

    model_config = SettingsConfigDict(env_prefix="ROLLOUT_")

    home: Path = Field(default=Path("."), description="Folder of rollout.yaml; data lie in var/.")
    database_url: str = Field(default="", description="SQLAlchemy URL. Default: SQLite in var/.")
    broker_url: str = Field(default="", description="Redis or AMQP URL. Default: embedded.")

    @property
    def spec_path(self) -> Path:
        return self.home / "rollout.yaml"

    @property
    def var(self) -> Path:
        """Everything the program writes: database, exit heads, spool, reports."""
        return self.home / "var"

    @property
    def heads(self) -> Path:
        return self.var / "heads"

    @property
    def spool(self) -> Path:
        return self.var / "spool"

    @property
    def database_path(self) -> Path:
        """The embedded database."""
        return (self.var / "rollout.db").resolve()

    @property
    def lacks_database(self) -> bool:
        """Whether the embedded database is in use and was not made yet."""
        return not self.database_url and not self.database_path.exists()

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.database_path}"

    @property
    def is_embedded(self) -> bool:
        """Whether the broker is the embedded one."""
        return not self.broker_url

    @property
    def broker_socket(self) -> Path:
        """The embedded broker's unix socket: short, since such paths end at 107 bytes."""
        digest = hashlib.sha256(str(self.home.resolve()).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"rollout-{os.getuid()}-{digest}" / "broker.sock"

    @property
    def resolved_broker_url(self) -> str:
        return self.broker_url or f"redis+socket://{self.broker_socket}"
