"""Options of commands that speak to agents: whom they believe, and what they show."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import click

from evac.cli.options import Command
from evac.drivers.process.peers import ALLOWED, CA, CERT, KEY, PLAIN


def agent_options(command: Command) -> Command:
    """Options that say for this process, and those that it starts, what its environment says else."""
    existing = click.Path(path_type=Path, dir_okay=False)

    @click.option(
        "--agent-ca", type=existing, help=f"Who signs the certificates of agents, PEM. [default: ${CA}]"
    )
    @click.option("--agent-cert", type=existing, help=f"What is shown to agents, PEM. [default: ${CERT}]")
    @click.option("--agent-key", type=existing, help=f"Its private key, PEM. [default: ${KEY}]")
    @click.option("--agent-plain", is_flag=True, help="Ask agents of other machines in the clear.")
    @functools.wraps(command)
    def wrapped(
        *values: Any,
        agent_ca: Path | None,
        agent_cert: Path | None,
        agent_key: Path | None,
        agent_plain: bool,
        **named: Any,
    ) -> Any:
        for name, path in ((CA, agent_ca), (CERT, agent_cert), (KEY, agent_key)):
            if path is not None:
                os.environ[name] = str(path.absolute())
        if agent_plain:
            os.environ[PLAIN] = ALLOWED
        return command(*values, **named)

    return wrapped  # type: ignore[return-value]
