"""What waits for a commit: a lane for each connection, served in turns.

So who sends much delays nobody else by more than a commit.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from testorch_core.items import Item


class Lanes:
    """Queued items. Within a lane their order is kept; between lanes each has one turn after the other."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[object, deque[Item]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def __contains__(self, lane: object) -> bool:
        return lane in self._lanes

    def put(self, item: Item) -> None:
        self._lanes.setdefault(item.lane, deque()).append(item)

    def take(self, most: int) -> list[Item]:
        """The next items, one of each lane in turn, of at most this weight together; at least one if there is any."""
        items: list[Item] = []
        weight = 0
        while self._lanes:
            lane, waiting = next(iter(self._lanes.items()))
            if items and weight + waiting[0].weight > most:
                break
            item = waiting.popleft()
            if waiting:
                self._lanes.move_to_end(lane)
            else:
                del self._lanes[lane]
            weight += item.weight
            items.append(item)
        return items
