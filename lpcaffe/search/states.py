"""What trials share: the values of all images at some cut points of a network, within a number of bytes.

A **state** is what is live at a cut point (see `cut_points`), batch by batch. It depends on the formats of all sites
before it.

Two trials that differ from some cut point on have the same states before it. Every trial leaves its states, because a
search may continue from it. When room is needed, states that no later trial could use are dropped first, then those
that were used longest ago.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

# The formats of the sites before a cut point, in its order: (cut point of the site, site and format as text).
CutFormats = tuple[tuple[int, str], ...]
# The live tensors of each batch.
State = list[dict[str, Any]]


def before(formats: CutFormats, point: int) -> CutFormats:
    """The formats on which a state depends."""
    return tuple(one for one in formats if one[0] < point)


class States:
    """States by cut point and formats.

    `sizes` are the bytes of the state at each cut point, `start` is the state at cut point 0.
    """

    def __init__(self, start: State, sizes: Sequence[int], memory: int) -> None:
        self.start, self.sizes, self.memory = start, sizes, memory
        self._held: OrderedDict[tuple[int, CutFormats], State] = OrderedDict()
        self._used: set[tuple[int, CutFormats]] = set()

    def deepest(self, formats: CutFormats, limit: int) -> tuple[int, State]:
        """The last cut point up to `limit` whose state is held for these formats, and the state."""
        usable = sorted(key for key in self._held if key[0] <= limit and key[1] == before(formats, key[0]))
        for key in usable:
            self._held.move_to_end(key)
            self._used.add(key)
        return (usable[-1][0], self._held[usable[-1]]) if usable else (0, self.start)

    def make_room(self, points: Sequence[int]) -> None:
        """Drop states until those of these cut points fit."""
        excess = sum(self.sizes[point] for point in (*points, *(point for point, _ in self._held))) - self.memory
        for key in sorted(self._held, key=self._used.__contains__):  # a stable sort: by age in each half
            if excess <= 0:
                break
            excess -= self.sizes[key[0]]
            self.drop(*key)

    def drop(self, point: int, formats: CutFormats) -> None:
        """Forget a state, if it is held."""
        key = (point, before(formats, point))
        self._held.pop(key, None)
        self._used.discard(key)

    def hold(self, point: int, formats: CutFormats, state: State) -> None:
        """Keep a state, for which there is room."""
        self._held[point, before(formats, point)] = state
