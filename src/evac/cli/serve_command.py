"""evac serve: the controller of a site, with the public status page outside all sites. evac agent: the agent
of a site.

Under systemd they report readiness, status and liveness: one datagram to the socket in `NOTIFY_SOCKET`, a
protocol that systemd documents for use without its library.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource

from evac.app.default_store import default_store
from evac.cli import console, options
from evac.cli.bundle_command import SITE as BUNDLE_SITE
from evac.cli.bundle_command import BundleAsked, bundle_options, open_bundle
from evac.cli.console import say
from evac.model.errors import InvalidInput
from evac.model.records import dataclass
from evac.views.words import ZONE, listed

if TYPE_CHECKING:
    from evac.app.controlling import Composed, Setting
    from evac.app.estates.copies import Copies
    from evac.engine.lead.controller import Controller

STATUS_MOST: Final = 200
LOOK_S: Final = 5.0
LISTENS_S: Final = 0.1


class Supervisor:
    """Created once, at the start: removes the variables from the environment, so that no process started
    later can report in our name.
    """

    def __init__(self, environment: MutableMapping[str, str] | None = None, pid: int | None = None) -> None:
        found = os.environ if environment is None else environment
        self._address = found.pop("NOTIFY_SOCKET", "")
        usec, whose = found.pop("WATCHDOG_USEC", ""), found.pop("WATCHDOG_PID", "")
        ours = whose in ("", str(os.getpid() if pid is None else pid))
        self._watched_s = int(usec) / 1_000_000 if ours and usec.isascii() and usec.isdigit() else 0.0
        self._status = ""

    @property
    def period_s(self) -> float:
        """Interval of liveness reports: half of the required one."""
        return min(LOOK_S, self._watched_s / 2) if self._watched_s else LOOK_S

    def ready(self, status: str = "") -> None:
        self._send(*self._words(status), "READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1", "STATUS=ends")

    def alive(self, status: str = "") -> None:
        """Report that the event loop runs, and the status if it changed."""
        states = self._words(status)
        if self._watched_s:
            states.append("WATCHDOG=1")
        if states:
            self._send(*states)

    async def once_listening(self, host: str, port: int, status: str = "") -> None:
        """Report readiness once something listens there, and liveness from then on; until cancelled."""
        while self._address:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
                break
            await asyncio.sleep(LISTENS_S)
        self.ready(status)
        await self.watch()

    async def watch(self, status: Callable[[], str] = lambda: "") -> None:
        """Report liveness until cancelled. A loop that hangs reports nothing, and systemd restarts it."""
        while self._address:
            self.alive(status())
            await asyncio.sleep(self.period_s)
        await asyncio.Event().wait()

    def _words(self, status: str) -> list[str]:
        plain = "".join(letter if letter.isprintable() else " " for letter in status)[:STATUS_MOST]
        if not plain or plain == self._status:
            return []
        self._status = plain
        return [f"STATUS={plain}"]

    def _send(self, *states: str) -> None:
        if not self._address:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, kind) as sending:
            sending.setblocking(False)  # never wait for the reader
            sending.sendto("\n".join(states).encode(), name)


@click.command()
@click.argument("file", type=options.FILE)
@click.option("--check", is_flag=True, help="Check FILE and end.")
def agent(file: Path, check: bool) -> None:
    """Run the agent of this site, configured by FILE (TOML), until it is stopped.

    It starts and stops local units, executes signed orders next to the systems they change, and fences its
    site. Units that it started keep running when it ends.
    """
    import asyncio
    import logging
    import signal

    from evac.agent.config import read_config
    from evac.agent.service import run_agent

    config = read_config(file)
    if check:
        click.echo(
            f"{file}: ok; site {config.site}, units: {len(config.units)}, fences: {len(config.fences)}"
        )
        return
    supervisor = Supervisor()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")

    async def until_told() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        telling = asyncio.create_task(
            supervisor.once_listening(config.host, config.port, f"the agent of {config.site}")
        )
        try:
            await run_agent(config, stop, file)
        finally:
            supervisor.stopping()
            telling.cancel()

    asyncio.run(until_told())


Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class StatusAsked:
    """Where the public status page goes; folder None: nowhere."""

    folder: Path | None
    push: str
    title: str
    url: str
    languages: str = ""
    join: str = ""

    def arguments(self, setting: Setting) -> list[str] | None:
        """Of the exporting process. Raises InvalidInput before anything starts."""
        if self.folder is None:
            if self.push:
                raise InvalidInput("status-push", "there is no folder to upload", "add --status-page DIR")
            return None
        from evac.app.status_export import target_of
        from evac.incident.components import languages_of

        target_of(self.folder, self.push)
        if self.languages:
            languages_of(self.languages)
        if setting.store == "memory:":
            raise InvalidInput(
                "status-store",
                "no other process can see a store in memory",
                "use a file: --store sqlite:PATH",
            )
        for url in filter(None, (self.url, self.join)):
            if not url.startswith(("https://", "http://")):
                raise InvalidInput(
                    "url-invalid", f"{url[:60]} is not a web address", "start it with https://"
                )
        told = [str(setting.estate), "--store", setting.store, "--site", setting.site]
        told += ["--to", str(self.folder)]
        asked = {"push": self.push, "title": self.title, "url": self.url, "languages": self.languages}
        asked["join"] = self.join
        for name, value in asked.items():
            told += [f"--{name}", value] if value else []
        return told + (["--as-of", setting.as_of.isoformat()] if setting.as_of else [])


def status_options(command: Command) -> Command:
    """Decorate a command with `status`, a StatusAsked."""

    @click.option(
        "--status-page",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Folder for the public status page, updated at every change. Keep it outside all sites.",
    )
    @click.option(
        "--status-push",
        default="",
        metavar="COMMAND",
        help="Command that uploads the folder, run without a shell: 'rsync -a {folder}/ HOST:/srv/status/'.",
    )
    @click.option("--status-title", default="", help="Title of the page. [default: the name of the estate]")
    @click.option("--status-url", default="", metavar="URL", help="Its address, for the feed.")
    @click.option(
        "--status-languages",
        default="",
        metavar="LIST",
        help="Languages of the page, its own first: en,ko. [default: en]",
    )
    @click.option(
        "--status-join", default="", metavar="URL", help="Address of the page where users subscribe by email."
    )
    @functools.wraps(command)
    def wrapped(
        *values: Any,
        status_page: Path | None,
        status_push: str,
        status_title: str,
        status_url: str,
        status_languages: str,
        status_join: str,
        **named: Any,
    ) -> Any:
        asked = StatusAsked(status_page, status_push, status_title, status_url, status_languages, status_join)
        return command(*values, status=asked, **named)

    return wrapped  # type: ignore[return-value]


@click.command()
@click.argument("estate", type=options.ESTATE, required=False)
@click.option("--site", help="The site of this controller.  [required]")
@click.option("--policy", type=options.FILE, help="Policy file. [default: policy.yaml next to the estate]")
@click.option(
    "--no-watch", is_flag=True, help="Only execute requests: no probes, verdicts or scheduled backups."
)
@click.option(
    "--until-idle", type=options.Length(), default=0, help="Exit after this long without a run. 0: never."
)
@click.option(
    "--generation",
    type=click.IntRange(0, 4_000),
    default=0,
    help="Higher than the generation of a lost store.",
)
@click.option("--listen", metavar="HOST:PORT", help="Also serve the war room here, like 127.0.0.1:8400.")
@click.option(
    "--access",
    type=options.FILE,
    help="Access file of the war room. [default: access.yaml next to the estate]",
)
@click.option(
    "--notices",
    type=options.FILE,
    help="Alert channels. [default: notices.yaml next to the estate]",
)
@click.option(
    "--tls-cert",
    type=options.FILE,
    help="Certificate of the war room, PEM. [default: from the access file]",
)
@click.option("--tls-key", type=options.FILE, help="Its private key, PEM.")
@click.option(
    "--credits",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder with evac credit cases, for the Credits page.",
)
@click.option("--demo", is_flag=True, help="Instead, serve a simulated company that loses a site.")
@click.option("--port", type=click.IntRange(0, 65_535), help="With --demo; 0: any free port. [default: 8400]")
@click.option(
    "--sign-in", is_flag=True, help="With --demo: two people sign in, with passwords that it prints."
)
@bundle_options
@status_options
@options.agent_options
@options.signing_options
@options.time_zone_option
@click.option(
    "--lease",
    type=options.Length(),
    help="Leader lease, like 5s; up to four times that on slow systems.",
)
@options.as_of_option
@options.store_option
def serve(
    estate: Path | None,
    site: str | None,
    policy: Path | None,
    no_watch: bool,
    until_idle: int,
    generation: int,
    listen: str | None,
    access: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    credits: Path | None,
    lease: int | None,
    as_of: date | None,
    store: str | None,
    status: StatusAsked,
    demo: bool,
    port: int | None,
    sign_in: bool,
    notices: Path | None,
    asked: BundleAsked,
) -> int:
    """Run the controller of a site: probe other sites, vote, lead, keep standby plans, execute runs.

    Run one at each site, all on the same store (etcd at three sites), or a single one on a SQLite file. With
    --listen, a process next to it serves pages and the API: on loopback, anyone who can reach it is admin;
    with an access file, people sign in; any other address also needs TLS.

    --demo needs nothing else: a simulated company in a temporary folder, a fire, its recovery.

    --bundle needs no ESTATE and no store: it starts from the file of `evac bundle`, as a new generation that
    rejects the old one. With --store and --site it fills an empty store of several sites instead.
    """
    if demo:
        return _demo(port, sign_in)
    if asked.bundle is not None:
        if estate is not None or policy is not None:
            raise click.UsageError("--bundle has its own estate and policy: remove them")
        if store is not None and site is None:
            raise click.UsageError("--bundle with --store fills a multi-site store and needs --site")
        opened = open_bundle(asked, generation, store or "")
        no_watch = no_watch or store is None
        estate, policy, store, generation = opened.estate, opened.policy, opened.store, 0
        site = site or BUNDLE_SITE
    elif asked.named:
        raise click.UsageError("--into, --share, --confirm, --reason, --digest and the like need --bundle")
    if estate is None or site is None:
        raise click.UsageError("give an ESTATE and its --site, or use --demo, which needs neither")
    if idle := _given("port", "sign_in"):
        raise click.UsageError(f"{listed(idle)} needs --demo; for the war room, use --listen")
    if listen is None and (idle := _given("access", "tls_cert", "tls_key", "credits")):
        raise click.UsageError(f"{listed(idle)} needs --listen")
    from evac.app import controlling

    setting = controlling.Setting(
        estate,
        site,
        store or default_store(),
        policy,
        as_of,
        not no_watch,
        lease,
        not no_watch,
        until_idle / 1_000,
        generation,
        anchors=asked.bundle is not None,
    )
    room = _room(setting, listen, access, tls_cert, tls_key, credits) if listen else None
    _run(replace(setting, access=access), room, status.arguments(setting), _notices(setting, notices))
    return console.DONE


def _run(
    setting: Setting, room: list[str] | None, status: list[str] | None, notices: list[str] | None
) -> None:
    """Run on a copy of the estate, so that changes can be loaded; on the files themselves if no copy is
    possible. Raises EstateError.
    """
    from evac.app.estates.copies import Copies, NotCopied, arguments_of
    from evac.estate.codecs.access import access_beside

    setting = replace(setting, access=setting.access or access_beside(setting.estate))

    if os.environ.get("EVAC_DEBUG"):
        logging.basicConfig(format="%(asctime)s %(name)s %(message)s")
        logging.getLogger("evac.net.internal_errors").setLevel(logging.DEBUG)
    try:
        copies = Copies(setting.estate, setting.policy)
    except (NotCopied, OSError) as error:
        words = error.message if isinstance(error, NotCopied) else error.strerror or type(error).__name__
        say(f"changes to the estate will not be noticed while evac runs: it cannot be copied ({words})")
        asyncio.run(_serve(setting, room, status, notices))
        return
    try:
        room = room and arguments_of(copies, room, room=True)
        status, notices = (told and arguments_of(copies, told) for told in (status, notices))
        used = copies.used
        named = (setting.estate, setting.policy)
        copied = replace(setting, estate=used.estate, policy=used.policy, named=named)
        asyncio.run(_serve(copied, room, status, notices, copies))
    finally:
        copies.close()


def _given(*only: str) -> list[str]:
    """Names given on the command line: of these parameters, or of all."""
    context = click.get_current_context()
    return [
        one.opts[0] if isinstance(one, click.Option) else one.make_metavar(context).strip("[]")
        for one in context.command.params
        if (not only or one.name in only)
        and context.get_parameter_source(one.name or "") is ParameterSource.COMMANDLINE
    ]


def _demo(port: int | None, sign_in: bool) -> int:
    """Run until someone ends it. Raises InvalidInput."""
    if others := [name for name in _given() if name not in ("--demo", "--port", "--sign-in", "--time-zone")]:
        raise click.UsageError(f"--demo uses its own company: remove {listed(others)}")
    from evac.app.demo import room as demo_room

    with options.in_time_zone(os.environ.get(ZONE, demo_room.ZONE)):
        demo_room.serve_demo(demo_room.PORT if port is None else port, say, sign_in=sign_in)
    return console.DONE


def _room(
    setting: Setting,
    listen: str,
    access: Path | None,
    cert: Path | None,
    key: Path | None,
    credits: Path | None = None,
) -> list[str]:
    """Arguments of the war room's process. Raises EstateError, InvalidInput, NotAllowed before anything
    starts.
    """
    from evac.app.side_process import check_libraries
    from evac.web.setting import listen_of

    address = listen_of(listen)
    check_libraries()
    from evac.web.access.opening import choose

    opened = choose(setting.estate, address, access, cert, key)
    if setting.store == "memory:":
        raise InvalidInput(
            "listen-store", "no other process can see a store in memory", "use a file: --store sqlite:PATH"
        )
    told = [str(setting.estate), "--store", setting.store, "--listen", listen, "--site", setting.site]
    # Named explicitly: if the file is deleted, a restarted room refuses to start instead of opening up.
    named = (
        ("--policy", setting.policy),
        ("--access", opened.path),
        ("--tls-cert", cert),
        ("--tls-key", key),
        ("--credits", credits and credits.absolute()),
    )
    told += [word for name, path in named if path is not None for word in (name, str(path))]
    return told + (["--as-of", setting.as_of.isoformat()] if setting.as_of else [])


def _notices(setting: Setting, named: Path | None) -> list[str] | None:
    """Arguments of the process that sends alerts; None if no alerts file exists. Raises EstateError,
    InvalidInput before anything starts.
    """
    from evac.estate.codecs.notices import load_notices, notices_beside

    path = named or notices_beside(setting.estate)
    if path is None:
        return None
    from evac.office.notices.sending import check_ways

    check_ways(load_notices(path).channels)
    if setting.store == "memory:":
        raise InvalidInput(
            "notices-store", "no other process can see a store in memory", "use a file: --store sqlite:PATH"
        )
    told = [str(setting.estate), "--store", setting.store, "--notices", str(path), "--site", setting.site]
    return told + (["--as-of", setting.as_of.isoformat()] if setting.as_of else [])


def _traces(setting: Setting) -> list[str] | None:
    """Arguments of the process that sends traces; None if no collector is configured, or libraries are
    missing, which is reported and does not prevent the start.
    """
    from evac.app.tracing import missing, wanted

    if not wanted() or setting.store == "memory:":
        return None
    if words := missing():
        say(words)
        return None
    return ["--store", setting.store, "--site", setting.site]


def _watch_files(copies: Copies, made: Composed, setting: Setting) -> asyncio.Task[None]:
    """SIGHUP requests a check at once; on a terminal that closes it still ends evac."""
    from evac.app.estates.watch import EstateWatch
    from evac.engine.clock import SystemClock

    watch = EstateWatch(copies, made, setting.as_of, SystemClock(), watches=setting.watch)
    if not sys.stdin or not sys.stdin.isatty():
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, watch.look_now)
    return asyncio.create_task(watch.run(), name="estate on disk")


async def _serve(
    setting: Setting,
    room: list[str] | None,
    status: list[str] | None,
    notices: list[str] | None,
    copies: Copies | None = None,
) -> None:
    """The controller and its side processes: the war room, the status page export, alerts, and the watcher of
    the estate.
    """
    from evac.app import controlling, side_process
    from evac.app.backups import scheduled

    supervisor = Supervisor()
    controllers: list[Controller] = []

    def ready(made: Composed) -> None:
        controllers.append(made.controller)
        _log(f"controller of {setting.site} is running; store: {made.store.name}")
        if not setting.watch and (names := scheduled(made.seen.files)):
            words = "it only executes requests, so it takes and checks no scheduled backups of"
            _log(f"{words} {listed(names)}; next: run another controller, without --no-watch")
        if copies is not None:
            beside.append(_watch_files(copies, made, setting))
        supervisor.ready()
        watching = supervisor.watch(lambda: _standing(made.controller))
        beside.append(asyncio.create_task(watching, name="systemd"))

    def line() -> bytes:
        return b"".join(side_process.controller_line(one.leads, one.neither) for one in controllers)

    beside = [asyncio.create_task(side_process.keep(room, _log, line=line), name="war room")] if room else []
    if status:
        export = side_process.keep(status, _log, module=side_process.EXPORT, name="the status page export")
        beside.append(asyncio.create_task(export, name="status page"))
    if notices:
        teller = side_process.keep(notices, _log, module=side_process.NOTICES, name="the alerts process")
        beside.append(asyncio.create_task(teller, name="notices"))
    if traces := _traces(setting):
        tracer = side_process.keep(traces, _log, module=side_process.TRACES, name="the traces process")
        beside.append(asyncio.create_task(tracer, name="traces"))
    try:
        await controlling.serve(setting, lambda notice: _log(controlling.notice_line(notice)), ready)
    finally:
        supervisor.stopping()
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)


def _standing(controller: Controller) -> str:
    if controller.leads:
        return "leads"
    why = controller.neither
    return f"neither leading nor following: {why}" if why else "following another leader"


def _log(words: str) -> None:
    """Write to the log, whose disk may be full: that ends no controller."""
    with contextlib.suppress(OSError):
        say(words)
