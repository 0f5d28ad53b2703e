"""What trials share: the values of all images at some places of a network, within a number of bytes.

A **state** is what is live at a place (see `places`), batch by batch; it depends on the formats of all parts before it.

Two trials that differ from some place on have the same states before it. Every trial leaves its states, because a
search may go on from it. When room is needed those go first that no later trial could use, then what was used longest
ago.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

# The formats of the parts before a place, in the order of their places: (place, part and format as text).
PlacedFormats = tuple[tuple[int, str], ...]
# The live tensors of each batch.
State = list[dict[str, Any]]


def before(formats: PlacedFormats, place: int) -> PlacedFormats:
    """The formats on which a state depends."""
    return tuple(one for one in formats if one[0] < place)


class States:
    """States by place and formats. `sizes` are the bytes of the state at each place; `start` is the one at place 0."""

    def __init__(self, start: State, sizes: Sequence[int], memory: int) -> None:
        self.start, self.sizes, self.memory = start, sizes, memory
        self._held: OrderedDict[tuple[int, PlacedFormats], State] = OrderedDict()
        self._used: set[tuple[int, PlacedFormats]] = set()

    def deepest(self, formats: PlacedFormats, limit: int) -> tuple[int, State]:
        """The last place up to `limit` whose state is held for these formats, and the state."""
        usable = sorted(key for key in self._held if key[0] <= limit and key[1] == before(formats, key[0]))
        for key in usable:
            self._held.move_to_end(key)
            self._used.add(key)
        return (usable[-1][0], self._held[usable[-1]]) if usable else (0, self.start)

    def make_room(self, places: Sequence[int]) -> None:
        """Drop states until those of these places fit."""
        excess = sum(self.sizes[place] for place in (*places, *(place for place, _ in self._held))) - self.memory
        for key in sorted(self._held, key=self._used.__contains__):  # a stable sort: by age in each half
            if excess <= 0:
                break
            excess -= self.sizes[key[0]]
            self.drop(*key)

    def drop(self, place: int, formats: PlacedFormats) -> None:
        """Forget a state, if it is held."""
        key = (place, before(formats, place))
        self._held.pop(key, None)
        self._used.discard(key)

    def hold(self, place: int, formats: PlacedFormats, state: State) -> None:
        """Keep a state, for which there is room."""
        self._held[place, before(formats, place)] = state
