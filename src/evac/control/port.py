"""The port of those who operate evac: what they see of runs, incidents and plans, and what they ask.

There are two ways to it: straight to the store (`control.store`), and through the API of a war room
(`control.server`). Commands speak to this port alone, so that each of them exists once. What is seen comes as
documents, plain values that are shown as they are; the same question has the same answer both ways.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from evac.engine.runs.requests import Request
from evac.incident.records import Note
from evac.model.backup import BackupEvent, BackupFacts
from evac.model.observation import Observation
from evac.store.anchors import Anchor
from evac.views.decisions import Decision
from evac.views.documents import DryRun, RunDocument
from evac.views.sheet import Sheet
from evac.views.status_document import PlanLine, RunLine, StatusDocument

if TYPE_CHECKING:
    from evac.app.incidents import PaperForm, PaperKind

RELEASED: Final = "released by evac hold --release"
"""Why a hold ends where nobody says it."""
Document = Mapping[str, Any]
QuarantineForm = Literal["json", "csv", "html"]


@dataclass(frozen=True, slots=True)
class PlanGiven:
    """A plan as it was given. data: its bytes; digest: of them. estate, policy: files beside whoever asks; a
    war room has its own.
    """

    data: bytes
    digest: str
    estate: Path | None = None
    policy: Path | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a request. taken: the leader took it; refused: why it did not let it be done; hint: what
    to do instead.
    """

    taken: bool
    refused: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """A hold. already: it stood before."""

    who: str
    reason: str
    already: bool


@dataclass(frozen=True, slots=True)
class StatusFiles:
    """The files of a public status page by name, in the order to write them, and what it says in short."""

    files: Mapping[str, str]
    overall: str
    components: int


@dataclass(frozen=True, slots=True)
class StatusAbout:
    """Whose public status page it is. title empty: the name of the estate."""

    estate: Path | None
    title: str
    url: str
    languages: str = "en"


class Control(Protocol):
    """Names of runs are also those of their incidents. Everything raises EvacError."""

    async def name(self, who: str) -> str:
        """The name that journals will say; who: the one that was asked for, if any."""
        ...

    async def runs(self) -> Sequence[RunLine]:
        """All runs, oldest first."""
        ...

    async def run(self, name: str, most: int | None = None) -> RunDocument:
        """One run with its steps, or with so many of them, those first that need a look."""
        ...

    async def decision(self, name: str, step: str) -> Decision:
        """What is asked about a step of a run, or about the run (step empty), and what each answer does."""
        ...

    def follow(self, name: str, most: int | None = None) -> AsyncGenerator[RunDocument, None]:
        """The same each time that the run changed, until it has ended."""
        ...

    def events(self, name: str, follow: bool = False) -> AsyncGenerator[Document, None]:
        """The journal of a run; follow: goes on until the run has ended."""
        ...

    async def ask(self, name: str, request: Request) -> Taken:
        """Asks something of a run and waits for its leader. Id, moment and a missing name are filled in."""
        ...

    async def ask_all(self, name: str, asked: Sequence[Request]) -> list[Taken]:
        """Asks several things of a run, in order; what became of each."""
        ...

    async def proof(self, name: str, heads: Sequence[Anchor]) -> Document:
        """Whether a journal is whole, and agrees with heads that others kept: that of a run, or one of
        `access_log.JOURNALS`.
        """
        ...

    async def quarantine(self, name: str, form: QuarantineForm) -> str:
        """The list of servers for the people on the floor."""
        ...

    async def plan(self, named: str) -> bytes:
        """A plan that is kept, by its digest or the first twelve letters of it or more."""
        ...

    async def plans(self) -> Sequence[PlanLine]:
        """The plans of the library."""
        ...

    async def rehearse(self, plan: PlanGiven) -> DryRun:
        """A dry run: asks every system that the plan touches, and changes nothing."""
        ...

    async def ready(self, plan: PlanGiven) -> str:
        """Who leads, after it was made sure that the plan fits and that someone does."""
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
        """Has the leader make a run of a plan; its name. abandoned: sites that are left as lost although they
        answer. key: to sign with, straight to the store; a war room proves by login. who: asks for it; if
        empty, the user of this machine.
        """
        ...

    async def hold(self, who: str, reason: str) -> Held:
        """Stops everything before its next effect."""
        ...

    async def release(self, who: str, reason: str, key: Path | None = None) -> bool:
        """Ends the hold; False if no one held anything. key: to sign with, straight to the store; a war
        room knows who asks by the login.
        """
        ...

    async def backup_facts(self) -> BackupFacts:
        """What was seen and proven of backups."""
        ...

    async def backup_history(self, data_set: str, most: int) -> Sequence[BackupEvent]:
        """What happened to the backups of a data set, newest first."""
        ...

    async def access_log(self, since_ms: int) -> Document:
        """Records of access and of acts of people, and what is damaged: the fields of `AccessLog`."""
        ...

    async def logins(self) -> Sequence[Document]:
        """Open logins: id, name, proof, acr, made_ms, seen_ms, until_ms."""
        ...

    async def end_logins(self, name: str, login: str = "") -> int:
        """Ends all logins of a person, or the one of that id; how many."""
        ...

    async def facts(self, estate: Path | None, look: bool) -> Observation:
        """What is known beside the files: what runs did, and what systems say. look: systems may be asked."""
        ...

    async def clear_site(self, domain: str, who: str, reason: str, key: Path | None = None) -> None:
        """Takes back that a site, or a domain below one, is lost or evacuated."""
        ...

    async def status(self) -> StatusDocument: ...

    async def what_if(self, domains: Sequence[str], estate: Path | None) -> Document:
        """What the loss of these domains at once does."""
        ...

    async def incidents(self, form: PaperForm) -> str | Sheet:
        """All incidents, oldest first."""
        ...

    async def paper(self, name: str, kind: PaperKind, form: PaperForm) -> str | Sheet:
        """A paper of one incident; a Sheet where it is to be shown on a screen."""
        ...

    async def note(self, note: Note, new: bool) -> str:
        """Writes something down; the key of the note. new: the incident may be one that no one knows."""
        ...

    async def status_page(self, about: StatusAbout) -> StatusFiles:
        """The public status page as static files."""
        ...
