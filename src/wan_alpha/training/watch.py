"""Who among several ranks is lost, and who is behind: the judgement alone, without clocks, threads and networks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

AGAIN = "The same command goes on from the last checkpoint"


class Beat(NamedTuple):
    """A rank's sign of life."""

    number: int = 0  # grows with every beat
    moves: int = 0  # hooks of the training loop passed: every rank passes the same ones in the same order
    step: int = 0
    doing: str = "starts"
    host: str = ""
    ended: str = ""  # why it has left, if it has
    own: float = 0.0  # seconds of a step until this rank is ready for the backward pass, a mean over the last steps
    whole: float = 0.0  # seconds of a step; likewise

    def pack(self) -> str:
        """As text."""
        return json.dumps(self)

    @classmethod
    def unpack(cls, text: bytes) -> Beat:
        """From text."""
        return cls(*json.loads(text))


class Verdict(NamedTuple):
    """Why the run has to end, and whether starting it again is of use."""

    message: str
    again: bool
    ranks: Sequence[int] = ()  # whose fault it is


STARTED = 6  # moves: two steps
SLOW = 0.1
"""A rank is slow if for so much of every step the others wait for it."""
FINISHED = "finished"
"""`Beat.ended` of a rank that is through."""
FOLLOWED = "lost contact"
"""`Beat.ended` of a rank that ends because another one is gone."""


def patience(moves: int) -> float:
    """By how much longer silence is borne before the first steps: imports and compilers keep threads from running."""
    return 1.0 if moves > STARTED else 3.0


class Watch:
    """Every rank's last sign of life, and when it came.

    Args:
        ranks: those that are watched.
        silence: seconds without a beat after which a rank is lost.
        timeout: seconds in which no rank moves after which the slowest one is stuck.
        now: seconds of a monotonic clock.
    """

    def __init__(self, ranks: list[int], silence: float, timeout: float, now: float) -> None:
        self.silence, self.timeout = silence, timeout
        self.beats = dict.fromkeys(ranks, Beat())
        self.heard = dict.fromkeys(ranks, now)
        self.moved = now
        self.warned: set[int] = set()
        self.warned_stuck = False
        self.slow_since: dict[int, float] = {}
        self.warned_slow: set[int] = set()

    def forgive(self, now: float) -> None:
        """This process itself was away: what it did not hear meanwhile counts for nothing."""
        self.heard = dict.fromkeys(self.heard, now)
        self.moved = now

    def hear(self, rank: int, beat: Beat, now: float) -> None:
        """Take note of what a rank last said."""
        before = self.beats[rank]
        if beat.number != before.number:
            self.heard[rank] = now
        if beat.moves != before.moves:
            self.moved, self.warned_stuck = now, False
        self.beats[rank] = beat

    def verdict(self, now: float, silence: float | None = None) -> Verdict | None:
        """Why the run has to end, if it has; with a shorter `silence` when it is known that somebody is gone."""
        limit = self._silence() if silence is None else silence
        for rank, beat in self.beats.items():
            if beat.ended not in ("", FINISHED, FOLLOWED):
                return Verdict(f"{self._name(rank)} ended: {beat.ended}", False, [rank])
        lost = [rank for rank in self._present() if now - self.heard[rank] > limit]
        if lost:
            places = ", ".join(f"{self._name(rank)} (last seen at step {self.beats[rank].step})" for rank in lost)
            return Verdict(
                f"no sign of life for {now - self.heard[lost[0]]:.0f} s from {places}: killed, stopped, or its machine "
                f"or network is gone. {AGAIN}",
                True,
                lost,
            )
        if self._present() and now - self.moved > self.timeout:
            return Verdict(
                f"no rank has moved for {now - self.moved:.0f} s (trainer.timeout_s={self.timeout:g}); "
                f"{self._slowest()}. {AGAIN}",
                True,
            )
        return None

    def warnings(self, now: float) -> list[str]:
        """What has gone on for a third of the time after which it ends the run, each once; and what is over."""
        said, silence = [], self._silence()
        for rank in self._present():
            quiet = now - self.heard[rank]
            if quiet > silence / 3 and rank not in self.warned:
                self.warned.add(rank)
                said.append(
                    f"{self._name(rank)} has given no sign of life for {quiet:.0f} s (step {self.beats[rank].step}); "
                    f"the run ends when it is {silence:g} (trainer.heartbeat_s)"
                )
            elif quiet < silence / 3 and rank in self.warned:
                self.warned.remove(rank)
                said.append(f"{self._name(rank)} is back")
        if self._present() and now - self.moved > self.timeout / 3 and not self.warned_stuck:
            self.warned_stuck = True
            said.append(
                f"no rank has moved for {now - self.moved:.0f} s; {self._slowest()}; the run ends when it is "
                f"{self.timeout:g} (trainer.timeout_s)"
            )
        return said

    def stragglers(self, now: float) -> list[str]:
        """Ranks for which the others have waited for a third of `silence`, each once; and those that keep up again."""
        said, own = [], {rank: self.beats[rank].own for rank in self._present()}
        for rank, seconds in own.items():
            others = median([s for other, s in own.items() if other != rank] or [seconds])
            whole = self.beats[rank].whole
            if seconds - others <= SLOW * whole:
                self.slow_since.pop(rank, None)
                if rank in self.warned_slow:
                    self.warned_slow.remove(rank)
                    said.append(f"{self._name(rank)} keeps up with the others again")
            elif now - self.slow_since.setdefault(rank, now) > self._silence() / 3 and rank not in self.warned_slow:
                self.warned_slow.add(rank)
                said.append(
                    f"{self._name(rank)} is slow, and all wait for it: {seconds:.2g} s of a step of {whole:.2g} s pass "
                    f"until it is ready for the backward pass, with the others {others:.2g} s"
                )
        return said

    def _silence(self) -> float:
        return self.silence * patience(max(beat.moves for beat in self.beats.values()))

    def _present(self) -> list[int]:
        return [rank for rank, beat in self.beats.items() if not beat.ended]

    def _slowest(self) -> str:
        moves = {rank: self.beats[rank].moves for rank in self._present()}
        behind = [rank for rank, count in moves.items() if count == min(moves.values())]
        where = self.beats[behind[0]]
        what = f"at step {where.step} ({where.doing})"
        if len(behind) == len(moves):
            return f"all are {what}"
        return f"behind: {', '.join(self._name(rank) for rank in behind)} {what}"

    def _name(self, rank: int) -> str:
        host = self.beats[rank].host
        return f"rank {rank}" + (f" on {host}" if host else "")
