"""The port of operators: what they see of runs, incidents and plans, and what they request.

It has two implementations: direct access to the store (`control.store`), and the API of a war room
(`control.server`). Commands use only this port, so each exists once. Results are documents, plain values that
are shown unchanged; both implementations give the same results.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from evac.engine.runs.requests import Request
from evac.incident.records import Note
from evac.model.backup import BackupEvent, BackupFacts
from evac.model.observation import Observation
from evac.model.records import dataclass
from evac.store.anchors import Anchor
from evac.views.decisions import Decision
from evac.views.documents import DryRun, RunDocument
from evac.views.sheet import Sheet
from evac.views.status_document import PlanLine, RunLine, StatusDocument

if TYPE_CHECKING:
    from evac.app.incidents import PaperForm, PaperKind

RELEASED: Final = "released by evac hold --release"
"""The default reason for ending a hold."""
Document = Mapping[str, Any]
QuarantineForm = Literal["json", "csv", "html"]


@dataclass(frozen=True, slots=True)
class PlanGiven:
    """A plan as given. data: its bytes; digest: of them. estate, policy: the caller's files; a war room has
    its own.
    """

    data: bytes
    digest: str
    estate: Path | None = None
    policy: Path | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """The result of a request. taken: the leader accepted it; refused: why it refused; hint: what to do
    instead.
    """

    taken: bool
    refused: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """A hold. already: it was placed before."""

    who: str
    reason: str
    already: bool


@dataclass(frozen=True, slots=True)
class StatusFiles:
    """The files of a public status page by name, in writing order, and a summary."""

    files: Mapping[str, str]
    overall: str
    components: int


@dataclass(frozen=True, slots=True)
class StatusAbout:
    """The owner of a public status page. title empty: the name of the estate."""

    estate: Path | None
    title: str
    url: str
    languages: str = "en"


class Control(Protocol):
    """Runs can also be named by their incidents. Every method raises EvacError."""

    async def name(self, who: str) -> str:
        """The name for journals; who: the requested one, if any."""
        ...

    async def runs(self) -> Sequence[RunLine]:
        """All runs, oldest first."""
        ...

    async def run(self, name: str, most: int | None = None) -> RunDocument:
        """One run with its steps, or at most this many of them, those that need attention first."""
        ...

    async def decision(self, name: str, step: str) -> Decision:
        """The decision needed on a step, or on the run (step empty), and the effect of each option."""
        ...

    def follow(self, name: str, most: int | None = None) -> AsyncGenerator[RunDocument, None]:
        """The run after each change, until it has ended."""
        ...

    def events(self, name: str, follow: bool = False) -> AsyncGenerator[Document, None]:
        """The journal of a run; follow: continue until the run has ended."""
        ...

    async def ask(self, name: str, request: Request) -> Taken:
        """Send a request about a run and wait for its leader. Fills in id, time and a missing name."""
        ...

    async def ask_all(self, name: str, asked: Sequence[Request]) -> list[Taken]:
        """Send several requests about a run, in order; return the result of each."""
        ...

    async def proof(self, name: str, heads: Sequence[Anchor]) -> Document:
        """Whether a journal is whole, and agrees with heads that others kept: that of a run, or one of
        `access_log.JOURNALS`.
        """
        ...

    async def quarantine(self, name: str, form: QuarantineForm) -> str:
        """The list of servers for on-site staff."""
        ...

    async def plan(self, named: str) -> bytes:
        """A stored plan, by its digest or at least its first twelve characters."""
        ...

    async def plans(self) -> Sequence[PlanLine]:
        """The plans of the library."""
        ...

    async def rehearse(self, plan: PlanGiven) -> DryRun:
        """A dry run: queries every system that the plan affects, and changes nothing."""
        ...

    async def ready(self, plan: PlanGiven) -> str:
        """The leader, after ensuring that the plan fits and that there is one."""
        ...

    async def propose(
        self,
        plan: PlanGiven,
        incident: str,
        reason: str,
        typed: tuple[str, ...],
        abandoned: tuple[str, ...] = (),
        key: Path | None = None,
        who: str = "",
    ) -> str:
        """Have the leader make a run of a plan; return its name. abandoned: sites left as lost although they
        respond. key: to sign with, for direct access; a war room uses the login. who: the requester; empty:
        the user of this machine.
        """
        ...

    async def hold(self, who: str, reason: str) -> Held:
        """Stop everything before its next effect."""
        ...

    async def release(self, who: str, reason: str, key: Path | None = None) -> bool:
        """End the hold; False if there was none. key: to sign with, for direct access; a war room uses the
        login.
        """
        ...

    async def backup_facts(self) -> BackupFacts:
        """Observations and proofs of backups."""
        ...

    async def backup_history(self, data_set: str, most: int) -> Sequence[BackupEvent]:
        """Events of a data set's backups, newest first."""
        ...

    async def access_log(self, since_ms: int) -> Document:
        """Records of access and of people's actions, and damage: the fields of `AccessLog`."""
        ...

    async def logins(self) -> Sequence[Document]:
        """Open logins: id, name, proof, acr, made_ms, seen_ms, until_ms."""
        ...

    async def end_logins(self, name: str, login: str = "") -> int:
        """End all logins of a person, or the one with that id; return how many."""
        ...

    async def facts(self, estate: Path | None, look: bool) -> Observation:
        """Facts beyond the files: results of runs, and observations. look: systems may be queried."""
        ...

    async def clear_site(self, domain: str, who: str, reason: str, key: Path | None = None) -> None:
        """Clear the lost or evacuated mark of a site, or of a domain below one."""
        ...

    async def status(self) -> StatusDocument: ...

    async def what_if(self, domains: Sequence[str], estate: Path | None) -> Document:
        """The effect of losing these domains at the same time."""
        ...

    async def incidents(self, form: PaperForm) -> str | Sheet:
        """All incidents, oldest first."""
        ...

    async def paper(self, name: str, kind: PaperKind, form: PaperForm) -> str | Sheet:
        """A paper of one incident; a Sheet for display on a screen."""
        ...

    async def note(self, note: Note, new: bool) -> str:
        """Add a note; return its key. new: the incident may be unknown so far."""
        ...

    async def status_page(self, about: StatusAbout) -> StatusFiles:
        """Make the public status page as static files."""
        ...
