"""What a worker needs to answer in one domain: the compiled task, and policy and heads if sound."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from rollout.control.spec import DomainSpec
from rollout.engine.costs import worthwhile_prefix
from rollout.engine.heads import ExitHeads
from rollout.engine.heads_file import load_heads
from rollout.engine.prefix import Prefix
from rollout.engine.segments import Segments
from rollout.engine.task import ChoiceTask, compile_task
from rollout.serving.policy_cache import LiveDomain
from rollout.values import ExitPolicy, PolicyError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DomainEngine:
    """One domain, ready to answer.

    Attributes:
        policy, heads: Both or neither; neither means full depth for everybody.
        stage_weight: The early arm's share now, 0 where nobody may exit.
        full_depth_reason: Why nobody may exit, in words; None in normal operation.
        prefix: The template's beginning, cached where that is measured to pay.
    """

    spec: DomainSpec
    task: ChoiceTask
    policy: ExitPolicy | None
    heads: ExitHeads | None
    stage_weight: float
    shadow_rate: float
    full_depth_reason: str | None
    prefix: Prefix | None = None


class DomainEngines:
    """Compiles tasks and loads heads, each once."""

    def __init__(self, segments: Segments, heads_folder: Path) -> None:
        self._segments = segments
        self._heads_folder = heads_folder
        self._tasks: dict[tuple[tuple[str, ...], str], ChoiceTask] = {}
        self._prefixes: dict[tuple[tuple[str, ...], str], Prefix | None] = {}
        self._heads: dict[tuple[str, str], ExitHeads] = {}
        self._refused: set[str] = set()
        self._last: dict[str, tuple[LiveDomain, DomainEngine]] = {}

    def of(self, live: LiveDomain) -> DomainEngine:
        """The engine for a domain as it stands now. A policy that is not sound is refused.

        Raises:
            TaskError: labels or template cannot be used with this model.
        """
        # One reading of the policy cache is judged once: heads that are refused are read again
        # when the cache is, not with every batch.
        before, engine = self._last.get(live.domain, (None, None))
        if engine is None or before is not live:
            engine = self._judged(live)
            self._last[live.domain] = (live, engine)
        return engine

    def _judged(self, live: LiveDomain) -> DomainEngine:
        key = (live.labels, live.template)
        if key not in self._tasks:
            self._tasks[key] = compile_task(self._segments.loaded, live.labels, live.template)
            self._prefixes[key] = worthwhile_prefix(self._segments, self._tasks[key])
        task = self._tasks[key]
        policy, heads, reason = live.policy, None, live.reason
        if policy is not None:
            try:
                heads = self._sound_heads(policy, task)
            except Exception as error:
                # Whatever is wrong with a policy, the answer is the full model's.
                policy, reason = None, f"policy refused: {error}"
                if reason not in self._refused:
                    self._refused.add(reason)
                    log.error("domain %s: %s; answering at full depth", live.domain, reason)
        return DomainEngine(
            live.spec,
            task,
            policy,
            heads,
            live.stage_weight if policy is not None else 0.0,
            live.shadow_rate,
            reason,
            self._prefixes[key],
        )

    def _sound_heads(self, policy: ExitPolicy, task: ChoiceTask) -> ExitHeads:
        loaded = self._segments.loaded
        if policy.model_revision != loaded.revision:
            raise PolicyError(
                f"policy {policy.domain} v{policy.version} was made for model revision "
                f"{policy.model_revision[:12]}, this worker runs {loaded.revision[:12]}: "
                "run `rollout calibrate`"
            )
        key = (policy.heads, task.fingerprint)
        if key not in self._heads:
            self._heads[key] = load_heads(self._heads_folder, policy.heads, task)
        heads = self._heads[key]
        if policy.exit_layers != heads.layers or policy.depth != loaded.depth:
            raise PolicyError(
                f"policy {policy.domain} v{policy.version} exits at layers {policy.exit_layers} of "
                f"{policy.depth}, but its heads know {heads.layers} and the model has "
                f"{loaded.depth} layers"
            )
        return heads
