"""Rows drawn evenly over tasks, of as few parts of a data set as that needs."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bezoar.chat.types import Chat, Dropped, Filtered
from bezoar.data.subset import content_key, duplicate, text_key

# a stream whose tasks alternate has shown them all when none was new for so many rows a task that
# is known, and a row that is wanted
_QUIET = 10
# rows that are held before those that cannot be drawn any more are left out
_SLACK = 4


@dataclass(eq=False)
class Part:
    """What is read at once; `group` is that of all its rows, `tasks` are some of theirs. A part
    whose group or tasks are not known has "" or none."""

    read: Callable[[], Iterator[Chat | Dropped]]
    label: str
    group: str = ""
    tasks: tuple[str, ...] = ()
    usable: int = 0
    # those of its rows that were drawn, and of them those that were passed over
    drawn: int = 0
    skipped: int = 0
    # by content key, without those behind the last row that can be drawn
    dropped: list[tuple[int, Dropped]] = field(default_factory=list)
    num_dropped: int = 0
    was_read: bool = False


@dataclass(eq=False)
class _Task:
    """Rows that wait for their turn, by group and content key, in the order of the file."""

    unread: list[Part] = field(default_factory=list)
    waiting: dict[str, dict[int, tuple[Chat, Part]]] = field(default_factory=dict)
    drawn: Counter[str] = field(default_factory=Counter)

    def all_waiting(self) -> Iterator[tuple[Chat, Part]]:
        for rows in self.waiting.values():
            yield from rows.values()


@dataclass(eq=False)
class EvenDraw:
    """Rows of each of `groups`, its tasks in turn: a task gives as many rows as any other until it
    has no more.

    Tasks come in a seeded order. The rows of one come in the order of the file, and reading ends
    where enough are seen, or with a `seed` by content key; so a short draw is the head of a long
    one. A part is read when the turn of its task comes and no row of it waits; parts without tasks
    are read first. Equal rows of a group are dropped. The drops of a part count in the proportion
    in which its rows were drawn.
    """

    parts: Sequence[Part]
    place: Callable[[Chat], tuple[str, str]]
    """Gives a row's group and task."""
    groups: Sequence[str]
    seed: int | None = None

    def take(self, skip: int, limit: int) -> Filtered[Chat]:
        """Rows `skip` to `skip + limit` of each group, in the order of the draw."""
        self.skip, self.want = skip, skip + limit
        self.tasks: dict[str, _Task] = {}
        self.num: Counter[str] = Counter()
        self.keys: set[tuple[str, int]] = set()
        self.twice: list[Dropped] = []
        # 1) Parts that do not say what is in them.
        for part in self.parts:
            if not part.tasks:
                self._read(part)
        # 2) The known tasks, and the parts of each, in a seeded order; new ones join at the end.
        for part in sorted(self.parts, key=lambda part: self._key(part.label)):
            for name in part.tasks:
                self.tasks.setdefault(name, _Task()).unread.append(part)
        self.tasks = {name: self.tasks[name] for name in sorted(self.tasks, key=self._key)}
        # 3) A row of each task in turn, until all groups are full or nothing is left.
        rows: list[Chat] = []
        before, state = -1, 0
        while state != before and self._open_groups():
            for name in list(self.tasks):
                rows += [row for group in self._open_groups() for row in self._turn(name, group)]
            before, state = state, self.num.total() + sum(part.was_read for part in self.parts)
        dropped = [drop for part in self.parts for drop in _in_window(part)]
        return Filtered(rows, dropped + self.twice)

    def _turn(self, name: str, group: str) -> Iterator[Chat]:
        """The next row of a task, unless there is none or it is passed over."""
        if drawn := self._draw(self.tasks[name], group):
            row, part = drawn
            self.num[group] += 1
            part.drawn += 1
            if self.num[group] > self.skip:
                yield row
            else:
                part.skipped += 1

    def _open_groups(self) -> list[str]:
        return [group for group in self.groups if self.num[group] < self.want]

    def _key(self, text: str) -> int:
        return text_key(text, self.seed or 0, text)

    def _ordered(self, waiting: Iterable[int]) -> list[int]:
        return list(waiting) if self.seed is None else sorted(waiting)

    def _draw(self, task: _Task, group: str) -> tuple[Chat, Part] | None:
        """The task's next row of the group, and the part that it is of."""
        while True:
            waiting = task.waiting.get(group, {})
            if waiting:
                key = next(iter(waiting)) if self.seed is None else min(waiting)
                row, part = waiting.pop(key)
                task.drawn[group] += 1
                # two tasks may hold the same row
                if (group, key) not in self.keys:
                    self.keys.add((group, key))
                    return row, part
                self.twice.append(duplicate(row))
                continue
            # a task that was met in other groups alone is not looked for in this one
            may_be = not task.waiting or group in task.waiting
            unread = [part for part in task.unread if may_be and part.group in ("", group)]
            if not unread:
                return None
            task.unread.remove(unread[0])
            if not unread[0].was_read:
                self._read(unread[0])

    def _read(self, part: Part) -> None:
        part.was_read = True
        quiet, names = 0, set[str]()
        for item in part.read():
            if isinstance(item, Dropped):
                part.dropped.append((self._key(item.id), item))
                continue
            group, name = self.place(item)
            key, task = content_key(item, self.seed or 0), self.tasks.setdefault(name, _Task())
            is_new = group not in task.waiting
            waiting = task.waiting.setdefault(group, {})
            if key in waiting or (group, key) in self.keys:
                part.dropped.append((key, duplicate(item)))
                continue
            waiting[key] = item, part
            part.usable += 1
            if part.usable % (_SLACK * self.want) == 0:
                self._trim()
            if is_new:
                quiet, names = 0, set()
            quiet += 1
            names.add(name)
            # where tasks come one after the other, others may follow however long one is
            alternate = self.seed is None and (len(names) > 1 or names == {""})
            is_long = quiet % (_QUIET * self.want) == 0 and quiet >= _QUIET * len(self.tasks)
            if alternate and is_long and self._is_enough(part.group):
                break
        self._trim()
        # drops behind the last row that is held would never count
        if self.seed is not None:
            part.dropped.sort(key=lambda pair: pair[0])
        part.num_dropped = len(part.dropped)
        held = sum(p is part for t in self.tasks.values() for _, p in t.all_waiting())
        if part.usable:
            del part.dropped[_share(part, held) :]

    def _is_enough(self, group: str) -> bool:
        """Whether the rows at hand fill the group, or all groups for ""."""
        num = self.num.copy()
        for task in self.tasks.values():
            num.update({name: len(rows) for name, rows in task.waiting.items()})
        return all(num[name] >= self.want for name in ([group] if group else self.groups))

    def _trim(self) -> None:
        """Leave out the rows that cannot be drawn any more, whatever else is read."""
        for group in self.groups:
            sizes = [
                task.drawn[group] + len(task.waiting.get(group, ())) for task in self.tasks.values()
            ]
            level = _level(sizes, self.want)
            for task in self.tasks.values():
                waiting = task.waiting.get(group, {})
                for key in self._ordered(waiting)[max(0, level - task.drawn[group]) :]:
                    del waiting[key]


def _level(sizes: Sequence[int], want: int) -> int:
    """The most rows of one task, where tasks of these sizes give `want` rows in turn."""
    left = want
    for num_larger, size in zip(range(len(sizes), 0, -1), sorted(sizes), strict=True):
        if size * num_larger >= left:
            return math.ceil(left / num_larger)
        left -= size
    return max(sizes, default=0)


def _share(part: Part, num: int) -> int:
    """How many of a part's drops stand before its row of this number."""
    return math.ceil(part.num_dropped * min(1.0, num / part.usable)) if part.usable else 0


def _in_window(part: Part) -> list[Dropped]:
    drops = [drop for _, drop in part.dropped]
    return drops[_share(part, part.skipped) : _share(part, part.drawn)] if part.usable else drops
