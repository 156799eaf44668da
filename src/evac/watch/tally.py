"""What one witness has seen of one target: misses counted into opinions, and opinions into a vote. Pure.

A probe turns down after `misses` in a row, and up again with one answer. A kind is up when any probe of it
is, down when all of them are. The target is down when user requests are, or where nobody probes those, when
everything that is known is; a kind that is up beside it stays in the evidence, where the verdict finds it.

A probe that never answered says nothing at all: it may be misspelt, or its site may not be built yet, and
neither is a loss.
"""

from __future__ import annotations

from collections.abc import Sequence

from evac.watch.values import EvidenceKind, Opinion, Seen, Vote

Evidence = tuple[tuple[EvidenceKind, Opinion], ...]


class Tally:
    """Counts for one target. kinds: the kind of each of its probes, in a fixed order. answered: which of
    them are known to have answered once, to this witness or before it was started again.
    """

    def __init__(self, kinds: Sequence[EvidenceKind], misses: int, answered: Sequence[bool] = ()) -> None:
        self._kinds = tuple(kinds)
        self._most = misses
        self.answered = list(answered) or [False] * len(self._kinds)
        self._misses = [0] * len(self._kinds)
        self._opinions: list[Opinion] = ["unknown"] * len(self._kinds)
        self._details = [""] * len(self._kinds)

    def record(self, probe: int, seen: Seen, doubted: bool = False) -> None:
        """Takes one result. While the witness doubts itself a miss is not counted; an answer always is."""
        if seen.opinion == "up":
            self._misses[probe], self._opinions[probe], self._details[probe] = 0, "up", ""
            self.answered[probe] = True
            return
        self._details[probe] = seen.detail
        if seen.opinion == "unknown" or doubted or not self.answered[probe]:
            return
        self._misses[probe] = min(self._misses[probe] + 1, self._most)
        if self._misses[probe] >= self._most:
            self._opinions[probe] = "down"

    def evidence(self) -> Evidence:
        """One opinion a kind, sorted by kind."""
        of_kind: dict[EvidenceKind, set[Opinion]] = {}
        for kind, opinion in zip(self._kinds, self._opinions, strict=True):
            of_kind.setdefault(kind, set()).add(opinion)
        return tuple((kind, _joined(of_kind[kind])) for kind in sorted(of_kind))

    def details(self) -> str:
        """What the probes that do not answer say, for people."""
        pairs = zip(self._opinions, self._details, strict=True)
        return "; ".join(detail for opinion, detail in pairs if opinion == "down" and detail)


def opinion_of(evidence: Evidence) -> Opinion:
    """What the evidence of all kinds says of the target as a whole."""
    known = {kind: opinion for kind, opinion in evidence if opinion != "unknown"}
    if "user" in known:
        return known["user"]
    if any(kind == "user" for kind, _ in evidence) or not known:
        return "up" if "up" in known.values() else "unknown"
    return "up" if "up" in known.values() else "down"


class Voter:
    """Turns the tally of one target into numbered votes. first: where the numbers begin."""

    def __init__(self, witness: str, target: str, tally: Tally, first: int) -> None:
        self._witness, self._target = witness, target
        self.tally = tally
        self._number = first
        self._opinion: Opinion | None = None
        self._since_ms = 0

    def vote(self, wall_ms: int, doubt: str) -> Vote:
        """The vote as of now; `unknown` while the witness doubts itself. Every call is a publication."""
        evidence = self.tally.evidence()
        if doubt:
            evidence = tuple((kind, "unknown" if said == "down" else said) for kind, said in evidence)
        opinion: Opinion = "unknown" if doubt else opinion_of(evidence)
        if opinion != self._opinion:
            self._opinion, self._since_ms = opinion, wall_ms
        self._number += 1
        reason = doubt or self.tally.details()
        return Vote(
            witness=self._witness,
            target=self._target,
            opinion=opinion,
            evidence=evidence,
            since_ms=self._since_ms,
            at_ms=wall_ms,
            number=self._number,
            reason=reason[:300],
        )


def _joined(opinions: set[Opinion]) -> Opinion:
    if "up" in opinions:
        return "up"
    return "down" if opinions == {"down"} else "unknown"
