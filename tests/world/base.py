"""What the parts of a walk share: system, reference, and how a difference is told."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.world.reference import Reference
    from tests.world.system import System

Step = tuple[str, list[Any]]
"""The name of a transition and its arguments: numbers, texts and truth values."""


class WorldError(AssertionError):
    """The system and the reference differ."""


class Base:
    """Two views of one world, and the choices of its walk."""

    system: System
    reference: Reference
    rng: random.Random

    def expect(self, condition: object, what: str) -> None:
        if not condition:
            raise WorldError(what)
