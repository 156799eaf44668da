"""The largest possible loss of a run's promotions: as known when it was made, and when their fences were
complete.

Kept in the run's labels, so that a later change of the estate does not change what people agreed to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final, Literal

import orjson

from evac.model.errors import NotAllowed
from evac.model.objectives import accepts
from evac.model.records import dataclass
from evac.run.values import Left, RunSpec
from evac.run.view import RunView
from evac.steps.registry import kind_of

LABEL: Final = "loss:"

Basis = Literal["synchronous", "seen", "declared", "moment", "unknown"]
"""moment: restored to a requested point in time, which loses everything written after it."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The most acknowledged writes that making `candidate` the primary can lose. most_ms None: unknown."""

    store: str
    primary: str
    """The site of the old primary. For basis seen: until_ms minus the time up to which the candidate was seen
    to have everything.
    """
    candidate: str
    most_ms: int | None
    basis: Basis
    seen_ms: int = 0
    """When the primary was last seen."""
    behind_ms: int = 0
    until_ms: int = 0
    sighting: str = ""
    """Name of that sighting."""
    rpo_ms: int | None = None
    """The most that the store may lose in such a loss; None: not stated."""

    @property
    def figure(self) -> str:
        """The amount, for people."""
        match self.basis:
            case "synchronous":
                return "nothing"
            case "unknown":
                return "an unknown part"
        return time_lost(self.most_ms)

    @property
    def words(self) -> str:
        """The amount and how it is known."""
        match self.basis:
            case "synchronous":
                return f"{self.figure}: it confirms every commit"
            case "declared" if self.most_ms == 0:
                return "nothing, as declared in the estate; never observed"
            case "declared":
                return f"{self.figure}, declared in the estate; never measured"
            case "moment":
                return f"{self.figure}: everything written after the requested point in time"
            case "unknown" if self.seen_ms:
                return f"{self.figure}: the last observation does not show how far it is behind"
            case "unknown":
                return f"{self.figure}: never measured and not declared"
        age = time_lost(self.until_ms - self.seen_ms)
        return f"{self.figure}: last seen {age} earlier, {time_lost(self.behind_ms)} behind at that time"

    def label(self) -> str:
        """Its form in the labels of a run."""
        return orjson.dumps(self).decode()


def later(loss: Loss, until_ms: int) -> Loss:
    """The same if the primary may have written for longer or, once fenced, for a shorter time."""
    if loss.basis != "seen" or loss.most_ms is None:
        return replace(loss, until_ms=until_ms)
    most_ms = max(0, loss.most_ms + until_ms - loss.until_ms)
    return replace(loss, most_ms=most_ms, until_ms=until_ms)


def as_known(loss: Loss, until_ms: int, ago_ms: int) -> Loss:
    """For a caller that sees nothing: `later`, however long ago that end was."""
    return later(loss, until_ms)


def loss_in(label: str) -> Loss:
    """The inverse of `label`. Raises NotAllowed if it is not one."""
    try:
        return Loss(**orjson.loads(label))
    except (ValueError, TypeError) as error:
        raise NotAllowed("guard-unreadable", "cannot read how much a promotion may lose") from error


def labels_of(losses: Mapping[str, Loss]) -> dict[str, str]:
    """Labels as kept with a run."""
    return {LABEL + store: loss.label() for store, loss in losses.items()}


def known_losses(spec: RunSpec) -> dict[str, Loss]:
    """Losses known when the run was bound. Raises NotAllowed if unreadable."""
    return {
        name.removeprefix(LABEL): loss_in(label)
        for name, label in spec.labels.items()
        if name.startswith(LABEL)
    }


def fenced_ms(view: RunView, store: str) -> int:
    """When the fence of a store was complete; 0 while it is not."""
    ends = [
        view.ended[i]
        for i, step in enumerate(view.steps)
        if kind_of(step.kind).fences and step.target == store and view.phases[i] == "succeeded"
    ]
    return max(ends, default=0)


def beyond_rpo(view: RunView) -> Iterator[Left]:
    """Stores whose promotion or restore may have lost more than their rpo, including unreadable losses."""
    made = [kind_of(step.kind).makes_primary or kind_of(step.kind).restores for step in view.steps]
    back = {s.target for i, s in enumerate(view.steps) if made[i] and view.phases[i] == "succeeded"}
    labels = {name: label for digest in view.plans for name, label in view.specs[digest].labels.items()}
    for store in sorted(back):
        label = labels.get(LABEL + store)
        if label is None:
            continue
        try:
            loss = loss_in(label)
        except NotAllowed:
            yield Left(store, "beyond_rpo")
            continue
        loss = later(loss, fenced_ms(view, store) or loss.until_ms)
        if not accepts(loss.rpo_ms, loss.most_ms):
            yield Left(store, "beyond_rpo")


def time_lost(milliseconds: int | None) -> str:
    """An amount of lost writes, for people: rounded up, and the same wherever it is shown."""
    if milliseconds is None:
        return "an unknown time"
    seconds, tenths = divmod(-(-milliseconds // 100), 10)
    return f"{seconds}.{tenths} s" if tenths else f"{seconds} s"
