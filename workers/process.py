"""What one worker process holds: settings, store, and, where it serves, the model."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

import torch

from rollout.control.spec import load_spec
from rollout.engine.segments import Segments
from rollout.serving.domain_engine import DomainEngines
from rollout.serving.model import load_checked
from rollout.serving.outbox import Outbox
from rollout.serving.path import ServingPath
from rollout.serving.policy_cache import PolicyCache
from rollout.settings import Settings
from rollout.store.schema import check_revision
from rollout.store.session import Store, open_store
from rollout.values import RolloutError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServingProcess:
    """A loaded model and what answers with it. `lock`: the engine takes one batch at a time."""

    path: ServingPath
    segments: Segments
    policies: PolicyCache
    engines: DomainEngines
    lock: threading.Lock


def utc_now() -> datetime:
    return datetime.now(UTC)


@cache
def store() -> Store:
    return open_store(Settings().resolved_database_url)


@cache
def serving_process() -> ServingProcess:
    """Load the model named in rollout.yaml and check its layer loop; once a process.

    Raises:
        RolloutError: no spec, no model, or a model that is refused.
    """
    settings = Settings()
    segments = load_checked(settings.home, load_spec(settings.spec_path).model)
    policies = PolicyCache(store())
    engines = DomainEngines(segments, settings.heads)
    path = ServingPath(
        segments,
        store(),
        policies,
        engines,
        Outbox(store(), settings.spool),
        clock=utc_now,
        worker=f"{socket.gethostname()}:{os.getpid()}",
    )
    return ServingProcess(path, segments, policies, engines, threading.Lock())


def check_store() -> None:
    """Raises RolloutError where the database is unreachable, behind or ahead."""
    # A store of its own: a connection must not be carried over the fork of a pool.
    checked = open_store(Settings().resolved_database_url)
    try:
        check_revision(checked)
    finally:
        checked.close()


def check_model_in_a_child() -> None:
    """Load the model in a process that ends again, before a pool forks.

    A pool whose children cannot load it would start them again and again; a parent that loaded it
    could not fork any more.

    Raises:
        RolloutError: what loading it raised.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        why = "loading the model failed; the log says more"
        try:
            limit_torch_threads()
            serving_process()
            why = ""
        except RolloutError as error:
            why = str(error)
        except Exception:
            log.exception("the model cannot be loaded")
        finally:
            sender.send(why)
            os._exit(0)
    sender.close()
    try:
        why = receiver.recv()
    except EOFError:
        why = "the process that loaded the model was killed: is there enough memory?"
    os.waitpid(child, 0)
    if why:
        raise RolloutError(why)


def limit_torch_threads() -> None:
    """One torch thread: worker processes that share cores fight over more."""
    torch.set_num_threads(1)
