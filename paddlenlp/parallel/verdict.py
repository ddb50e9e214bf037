"""Which rank of a job hangs, from what all of them report.

A rank that waits for others in a collective makes no progress and is not to blame. To blame is one that neither goes on
nor waits, or that gives no sign of life; if all wait, all do, for each other. Where a device carries out collectives
the program does not say when it waits: there a rank waits if it has begun more of a group's collectives than another.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

LINES = 12
"""So many groups of ranks are described; in a large job many rarely do different things."""


class Report(NamedTuple):
    """What a rank says of itself.

    Attributes:
        host, process: where it runs.
        step, phase: what it is about.
        idle: seconds without progress.
        waits, ranks: the collective in which it does nothing but wait, and for whom; "" if it does something itself.
        last: the last collective that it began.
        at: the line of the program.
        turns: how many collectives of each group of devices it has begun.
        page: see `Heartbeat.page`.
        seen: rank, step and phase of the next rank on its host, as that one's memory has them.
        over: it will report no more, and has not failed.
    """

    rank: int
    host: str = ""
    process: int = 0
    step: int = 0
    phase: str = "start-up"
    idle: float = 0.0
    waits: str = ""
    ranks: Sequence[int] = ()
    last: str = ""
    at: str = ""
    turns: Dict[str, int] = {}
    page: Optional[Sequence[int]] = None
    seen: Optional[Sequence[Any]] = None
    over: bool = False


class Judge:
    """Keeps what the ranks report. Times are seconds of the judging rank's clock.

    Args:
        ranks: who is judged.
        timeout: seconds without progress that are too long.
        silence: seconds without a report after which a rank gives no sign of life.
        now: when it begins.
    """

    def __init__(self, ranks: Sequence[int], timeout: float, silence: float, now: float) -> None:
        self._timeout, self._silence, self._began = timeout, silence, now
        self._ranks = list(ranks)
        self._heard: Dict[int, Tuple[float, Report]] = {}
        self._excused: Dict[int, float] = {}
        self._seen: Dict[int, Tuple[float, int, str]] = {}

    def hear(self, report: Report, now: float) -> None:
        """A rank has reported."""
        self._heard[report.rank] = now, report
        if report.over:
            self._ranks = [rank for rank in self._ranks if rank != report.rank]
        if report.seen is not None:
            rank, step, phase = report.seen
            self._seen[rank] = now, step, phase

    def page(self, rank: int) -> Optional[Sequence[int]]:
        """Where the notes of a rank can be read on its host."""
        return self._heard[rank][1].page if rank in self._heard else None

    def verdict(self, now: float) -> str:
        """Who hangs, and what all ranks do; "" as long as none does."""
        waiting = self._waiting(now)
        self._excused.update({rank: self._heard[rank][0] for rank in waiting})
        guilty = [rank for rank in self._ranks if self._to_blame(rank, now) >= self._timeout]
        if not guilty and all(self._idle(rank, now) >= self._timeout for rank in self._ranks):
            guilty = [rank for rank in self._ranks if rank not in waiting] or self._ranks
        return self._text(guilty, now) if guilty else ""

    def _idle(self, rank: int, now: float) -> float:
        """Seconds without progress, as far as is known."""
        if rank not in self._heard:
            return now - self._began
        when, report = self._heard[rank]
        return report.idle + now - when

    def _to_blame(self, rank: int, now: float) -> float:
        """Seconds without progress since it was last seen to wait for others."""
        return min(self._idle(rank, now), now - self._excused.get(rank, float("-inf")))

    def _is_silent(self, rank: int, now: float) -> bool:
        return rank not in self._heard or now - self._heard[rank][0] > self._silence

    def _waiting(self, now: float) -> Set[int]:
        """The ranks that wait for others, and say so still."""
        alive = {rank: self._heard[rank][1] for rank in self._ranks if not self._is_silent(rank, now)}
        idle = [rank for rank in alive if self._idle(rank, now) > self._silence]
        waiting = {rank for rank in idle if alive[rank].waits}
        if any(alive[rank].turns for rank in idle):
            waiting |= set(idle) & self._waiting_on_devices()
        return waiting

    def _waiting_on_devices(self) -> Set[int]:
        """Those that have begun more of a group's collectives than another rank; and if there are such, those that
        have begun no fewer of any group's, since what they have begun may wait behind what the others have."""
        reports = [report for _, report in self._heard.values()]
        turns: Dict[str, List[int]] = {}
        for report in reports:
            for group, number in report.turns.items():
                turns.setdefault(group, []).append(number)
        least, most = ({group: pick(found) for group, found in turns.items()} for pick in (min, max))
        ahead = {one.rank for one in reports if any(number > least[group] for group, number in one.turns.items())}
        behind = {one.rank for one in reports if any(number < most[group] for group, number in one.turns.items())}
        return ahead | {one.rank for one in reports if behind and one.turns and one.rank not in behind}

    # What the user reads.

    def _text(self, guilty: Sequence[int], now: float) -> str:
        places: Dict[str, List[int]] = {}
        for rank in guilty:
            places.setdefault(self._place(rank), []).append(rank)
        where = "; ".join(f"{_named(ranks)} in {place}" for place, ranks in list(places.items())[:LINES])
        longest = max(self._idle(rank, now) for rank in guilty)
        head = f"hang: {where}: no progress for {longest:.0f} s (hang_timeout {self._timeout:g})"
        if len(guilty) == len(self._ranks) > 1:
            head += "; no rank waits for one that works: they wait for each other, or for the network"
        own = self._grouped(guilty, now)
        others = self._grouped([rank for rank in self._ranks if rank not in set(guilty)], now)
        return "\n".join([head, *(f"  {line}" for line in own + others)])

    def _grouped(self, ranks: Sequence[int], now: float) -> List[str]:
        """A line for all ranks that do the same."""
        lines: Dict[str, List[int]] = {}
        for rank in ranks:
            lines.setdefault(self._doing(rank, now), []).append(rank)
        found = [f"{_named(same)}: {doing}" for doing, same in lines.items()]
        more = [f"and {len(found) - LINES} more of such lines"] if len(found) > LINES else []
        return found[:LINES] + more

    def _doing(self, rank: int, now: float) -> str:
        """All that is known of a rank."""
        if rank not in self._heard:
            return "never heard of: it has not come as far as the others, or can't reach rank 0"
        report = self._heard[rank][1]
        who = f"{self._place(rank)}, host {report.host}"
        if self._is_silent(rank, now):
            last = f"; its last collective was {report.last}" if report.last else ""
            return f"{who}, process {report.process}: no sign of life, it is stopped or can't be reached{last}"
        if report.waits:
            awaited = f" for {_named(report.ranks)}" if report.ranks else ""
            return f"{who}: waits{awaited} in {report.waits}"
        last = f", last collective {report.last}" if report.last else ""
        return f"{who}, process {report.process}: at {report.at or 'an unknown line'}{last}"

    def _place(self, rank: int) -> str:
        """Phase and step, from whoever knows them best."""
        when, report = self._heard.get(rank, (self._began, Report(rank)))
        seen, step, phase = self._seen.get(rank, (when, report.step, report.phase))
        if seen < when:
            step, phase = report.step, report.phase
        return f"phase {phase}" + (f" of step {step}" if step else "")


def _named(ranks: Sequence[int]) -> str:
    """ "rank 3", "ranks 0, 2 to 5"."""
    runs: List[List[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    texts = []
    for first, last in runs:
        texts += [str(first)] if first == last else [f"{first} to {last}"] if last > first + 1 else [f"{first}, {last}"]
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(texts)}"
