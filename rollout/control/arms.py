"""How many customers are in each arm: what tells whether the stage weight is kept to.

A request key stays in its arm, so its requests are one draw, however many they are: counting
requests would let one busy customer look like a wrong split. Each key is counted once per stage,
by a bitmap over hashes of keys; a key whose slot is taken by another is left out, which has
nothing to do with its arm as long as both arms' outcomes come in mixed. The counted keys are then
independent draws, and their number is limited by the slots.

Reference: Whang, Vander-Zanden, Taylor (1990), A linear-time probabilistic counting algorithm for
database applications, sec. 2 (the bitmap).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from rollout.stats.allocation import SampleRatioTest

SLOTS = 4096
ALPHA = 0.001
"""Chance of a false alarm during one stage, over all looks together."""


@dataclass(frozen=True)
class ArmCounts:
    """The arms of distinct request keys since stage entry.

    Attributes:
        test: Over the keys counted.
        taken: The bitmap, slot by slot.

    >>> counts = ArmCounts().update([("0a" * 32, True), ("0b" * 32, False), ("0a" * 32, True)], 0.5)
    >>> counts.test.early, counts.test.control, counts.mismatch
    (1, 1, False)
    >>> ArmCounts.from_json(counts.to_json()) == counts
    True
    """

    test: SampleRatioTest = SampleRatioTest()
    taken: int = 0

    def update(self, keys: Iterable[tuple[str, bool]], weight: float) -> ArmCounts:
        """The counts after these requests of a stage.

        Args:
            keys: Hash of the request key, and whether it was early.
            weight: The stage's share, in [0, 1].
        """
        arms, taken = [0, 0], self.taken
        for key_hash, early in keys:
            slot = 1 << crc32(key_hash.encode()) % SLOTS
            if not taken & slot:
                taken |= slot
                arms[early] += 1
        return ArmCounts(self.test.update(arms[True], arms[False], weight), taken)

    @property
    def mismatch(self) -> bool:
        return self.test.mismatch(ALPHA)

    def to_json(self) -> dict[str, Any]:
        return {"test": self.test.to_json(), "taken": format(self.taken, "x")}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ArmCounts:
        return cls(SampleRatioTest.from_json(values["test"]), int(values["taken"], 16))
