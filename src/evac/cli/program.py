"""The command line: a lazy group, so that `--help` imports no command and no large library.

Every error a user can cause ends here as a message with a code and a next step, never as a traceback.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click
from click.shell_completion import CompletionItem

from evac import __version__
from evac.cli import console
from evac.model.errors import EstateError, EvacError
from evac.model.extras import extra_of, needs
from evac.model.foreign_text import one_line

COMMANDS: Final = {
    "example": ("evac.cli.estate_command:example", "Write an example estate."),
    "init": ("evac.cli.init_command:init", "Create an estate from the files in a folder, and audit it."),
    "import": (
        "evac.cli.import_command:import_",
        "Import an estate from an inventory, Kubernetes or Compose.",
    ),
    "check": ("evac.cli.estate_command:check", "Check estate files and list missing facts."),
    "estate": ("evac.cli.estate_command:estate_group", "Upgrade estate files to the newest format."),
    "schema": ("evac.cli.estate_command:schema", "Print the JSON Schema of estates, plans or audits."),
    "audit": (
        "evac.cli.audit_command:audit",
        "Show what each possible loss would take down, and what to fix.",
    ),
    "plan": ("evac.cli.plan_command:plan", "Plan an evacuation, a cold start or a failback."),
    "verify": ("evac.cli.plan_command:verify", "Check a plan with code independent of the planner."),
    "simulate": ("evac.cli.plan_command:simulate", "Simulate a plan many times with delays and failures."),
    "observe": ("evac.cli.observe_command:observe", "Ask every store, or every BMC, for its current state."),
    "doctor": ("evac.cli.doctor_command:doctor", "Show what evac can do now for each service and store."),
    "apply": ("evac.cli.apply_command:apply", "Dry-run a plan; with --execute, create a run."),
    "approve": ("evac.cli.apply_command:approve", "Approve a run or a step."),
    "status": ("evac.cli.status_command:status", "Show leader, hold, runs, plans and alerts."),
    "drawer": ("evac.cli.status_command:drawer", "List and show standby plans."),
    "what-if": ("evac.cli.status_command:what_if", "Show the effect of losing some fault domains."),
    "run": ("evac.cli.run_command:run", "Show and control runs."),
    "incident": ("evac.cli.incident_command:incident", "Record an incident, update users, write reports."),
    "credit": ("evac.cli.credit_command:credit", "Calculate what customers are owed after an outage."),
    "site": ("evac.cli.apply_command:site", "Clear a site's lost or evacuated mark."),
    "backup": ("evac.cli.backup_command:backup", "Show, take, check and restore backups."),
    "hold": ("evac.cli.apply_command:hold", "Stop all runs before their next effect."),
    "serve": ("evac.cli.serve_command:serve", "Run the controller of a site, or the demo."),
    "store": ("evac.cli.store_command:store", "Check, repair and seal the store."),
    "notices": ("evac.cli.notices_command:notices", "Check and test alert channels."),
    "bundle": ("evac.cli.bundle_command:bundle", "Make and verify recovery bundles."),
    "access": (
        "evac.cli.access_command:access",
        "Check access files; make tokens and break-glass credentials.",
    ),
    "driver": ("evac.cli.doctor_command:driver", "Try a driver or a script on a real system."),
    "agent": ("evac.cli.serve_command:agent", "Run the agent of a site."),
    "key": ("evac.cli.apply_command:new_key", "Make a key for approvals."),
}
OF_EXTRAS: Final = {
    "lab": ("lab", "Run three real sites on this machine and burn one."),
}
"""Commands of other distributions, with the extra that installs each."""
GROUPS: Final = {
    "Start": ("init", "example", "import", "check", "estate", "schema"),
    "Before a loss": (
        "audit",
        "backup",
        "what-if",
        "plan",
        "verify",
        "simulate",
        "drawer",
        "doctor",
        "bundle",
    ),
    "During a loss": ("status", "observe", "apply", "approve", "run", "hold", "incident"),
    "After a loss": ("site", "credit"),
    "Operate": ("serve", "agent", "store", "access", "key", "notices", "driver"),
    "Practise": ("lab",),
}
"""Grouping of commands in `evac --help` and the reference; each command is in one group."""
ENTRY_POINTS: Final = "evac.commands"
"""The group of entry points in which such a distribution registers its commands."""


class LazyGroup(click.Group):
    """Knows each command's name and help; imports its module only when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *OF_EXTRAS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in OF_EXTRAS:
            return _of_extra(cmd_name)
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.NoSuchCommand(
                error.command_name, possibilities=self.list_commands(ctx), ctx=ctx
            ) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """From the table above: loading each command would import all of them."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=summary(name))
            for names in GROUPS.values()
            for name in names
            if name.startswith(incomplete)
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(8), summary(name)) for name in names])


def summary(name: str) -> str:
    """The purpose of a command, in one line."""
    return (COMMANDS | OF_EXTRAS)[name][1]


def _of_extra(name: str) -> click.Command:
    """Raise `InvalidInput` that names the extra, unless the distribution with the command is installed."""
    from importlib.metadata import entry_points

    for found in entry_points(group=ENTRY_POINTS, name=name):
        command: click.Command = found.load()
        return command
    raise needs(OF_EXTRAS[name][0], f"evac {name}")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="evac")
def cli() -> None:
    """evac: lose a data centre, keep the service.

    Start with: evac serve --demo. Then: evac example pangyo -o pangyo, and evac audit pangyo.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    console.forget()
    try:
        code = cli.main(args=arguments, prog_name="evac", standalone_mode=False)
        return code if isinstance(code, int) else console.DONE
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return console.USAGE
    except click.ClickException as error:
        error.show()
        return console.USAGE
    except click.exceptions.Exit as error:
        return int(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; nothing was left half-written", err=True)
        return console.INTERRUPTED
    except EvacError as error:
        show(error)
        return console.exit_code(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return console.DONE
    except OSError as error:
        return _system_error(error)
    except MemoryError:
        click.echo(
            "error: out of memory [out-of-memory]\nnext: close other programs, or use a larger machine",
            err=True,
        )
        return console.FAILED
    except ModuleNotFoundError as error:
        extra = extra_of(error.name or "")
        if not extra:
            return _own_fault(error)
        given = sys.argv[1:] if arguments is None else arguments
        command = next((part for part in given if not part.startswith("-")), "")
        missing = needs(extra, f"evac {command}")
        show(missing)
        return console.exit_code(missing)
    except Exception as error:
        return _own_fault(error)


def show(error: EvacError) -> None:
    """An error as the user sees it: every diagnostic, those that are errors last, the code, and what to do
    next.
    """
    if isinstance(error, EstateError):
        for row in sorted(error.diagnostics, key=lambda d: (d.severity == "error", d.sort_key)):
            click.echo(f"{row.place}: {row.severity}: {one_line(row.message)} [{row.code}]", err=True)
            if row.hint:
                click.echo(f"    {one_line(row.hint)}", err=True)
    click.echo(f"error: {one_line(error.message)} [{error.code}]", err=True)
    if error.hint:
        click.echo(console.with_way(f"next: {one_line(error.hint)}"), err=True)


_BY_ERRNO: Final = {
    errno.EADDRINUSE: "end the process that listens there, or choose another address or port",
    errno.EADDRNOTAVAIL: "listen at an address of this machine",
}


def _system_error(error: OSError) -> int:
    words = error.strerror or str(error)
    where = f"{error.filename}: " if error.filename else ""
    hint = _BY_ERRNO.get(error.errno or 0, "check the path, the permissions and the free space")
    click.echo(f"error: {one_line(where + words)} [system-error]\nnext: {hint}", err=True)
    return console.FAILED


def _own_fault(error: Exception) -> int:
    """A bug in evac, reported as one, with a traceback only when EVAC_DEBUG is set."""
    if os.environ.get("EVAC_DEBUG"):
        raise error
    click.echo(
        f"error: internal error: {type(error).__name__}: {one_line(str(error))[:300]} [internal-error]",
        err=True,
    )
    click.echo(
        "next: run the command again with EVAC_DEBUG=1 and report the output; nothing was written", err=True
    )
    return console.FAILED
