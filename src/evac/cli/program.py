"""The command line: a lazy group, so that `--help` imports no command and no heavy library.

Every error a user can cause ends here as words with a code and a next step, never as a traceback.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from evac import __version__
from evac.cli import console
from evac.model.errors import EstateError, EvacError
from evac.model.extras import extra_of, needs

COMMANDS: Final = {
    "example": ("evac.cli.estate_command:example", "Write an example estate."),
    "import": ("evac.cli.estate_command:import_", "Make an estate out of what exists."),
    "check": ("evac.cli.estate_command:check", "Is the estate well formed, and what is missing?"),
    "schema": ("evac.cli.estate_command:schema", "Print the JSON Schema of estates, plans or audits."),
    "audit": ("evac.cli.audit_command:audit", "What would each possible loss take, and what must be mended?"),
    "plan": ("evac.cli.plan_command:plan", "A site is gone: what goes where, in which order, done when?"),
    "verify": ("evac.cli.plan_command:verify", "Check a plan with code that does not trust the planner."),
    "simulate": ("evac.cli.plan_command:simulate", "Play a plan with delays and failures, many times."),
    "observe": ("evac.cli.observe_command:observe", "What are the stores now, by what they say themselves?"),
    "apply": ("evac.cli.apply_command:apply", "What would a plan do now? With --execute: carry it out."),
    "approve": ("evac.cli.apply_command:approve", "Agree to a run, within its envelope."),
    "status": ("evac.cli.status_command:status", "How things stand: leader, hold, runs, plans, notices."),
    "drawer": ("evac.cli.status_command:drawer", "Plans that lie ready before a fire."),
    "what-if": ("evac.cli.status_command:what_if", "What the loss of these fault domains would do."),
    "run": ("evac.cli.run_command:run", "Look at runs, and say what shall become of them."),
    "incident": ("evac.cli.incident_command:incident", "What happened, who commands, what is told to whom."),
    "site": ("evac.cli.site_command:site", "Take back that a site is lost or evacuated."),
    "hold": ("evac.cli.apply_command:hold", "Stop everything before its next effect."),
    "serve": ("evac.cli.serve_command:serve", "Run the controller of a site."),
    "store": ("evac.cli.store_command:store", "Authenticate what is kept in the store."),
    "notices": ("evac.cli.notices_command:notices", "Who is told when something is wrong."),
    "bundle": ("evac.cli.bundle_command:bundle", "Everything that is needed when nothing else is left."),
    "access": ("evac.cli.access_command:access", "Who may do what in the war room."),
    "agent": ("evac.cli.serve_command:agent", "Run the local hand of a site."),
    "key": ("evac.cli.apply_command:new_key", "Make a key for approvals."),
}
OF_EXTRAS: Final = {
    "lab": ("lab", "Three real sites on this machine, to burn."),
    "doctor": ("lab", "What is missing on this machine for the lab?"),
}
"""Commands of other distributions, with the extra that installs each."""
ENTRY_POINTS: Final = "evac.commands"
"""The group of entry points where such a distribution names its commands."""


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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in (COMMANDS | OF_EXTRAS).items()])


def _of_extra(name: str) -> click.Command:
    """Raises `InvalidInput` that names the extra unless the distribution with the command is installed."""
    from importlib.metadata import entry_points

    for found in entry_points(group=ENTRY_POINTS, name=name):
        command: click.Command = found.load()
        return command
    raise needs(OF_EXTRAS[name][0], f"evac {name}")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="evac")
def cli() -> None:
    """evac: lose a data centre, keep the service.

    Start with: evac example pangyo -o pangyo, then evac audit pangyo.
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
    """An error as a user reads it: every diagnostic, the code, and what to do next."""
    if isinstance(error, EstateError):
        for row in sorted(error.diagnostics, key=lambda d: d.sort_key):
            click.echo(f"{row.place}: {row.severity}: {row.message} [{row.code}]", err=True)
            if row.hint:
                click.echo(f"    {row.hint}", err=True)
    click.echo(f"error: {error.message} [{error.code}]", err=True)
    if error.hint:
        click.echo(console.with_way(f"next: {error.hint}"), err=True)


def _system_error(error: OSError) -> int:
    words = error.strerror or str(error)
    where = f"{error.filename}: " if error.filename else ""
    click.echo(
        f"error: {where}{words} [system-error]\nnext: check the path, the permissions and the space", err=True
    )
    return console.FAILED


def _own_fault(error: Exception) -> int:
    """A mistake of evac itself: said plainly; the trace only for who asks for it."""
    if os.environ.get("EVAC_DEBUG"):
        raise error
    click.echo(
        f"error: evac made a mistake: {type(error).__name__}: {str(error)[:300]} [internal-error]", err=True
    )
    click.echo(
        "next: run it again with EVAC_DEBUG=1 and report what it prints; nothing was written", err=True
    )
    return console.FAILED
