"""The reference page on access files, made from the table that their reader works from."""

from __future__ import annotations

from typing import Final

from evac.estate.codecs.access import FIELDS, PERSON_FIELDS, TOKEN_FIELDS
from evac.estate.format.kinds import Field, Mapped, Record
from evac.estate.key_tables import key_table, shown_default

_OPENING: Final = """\
# Access files

Who may do what in the war room. One YAML file, `access.yaml` in the folder of the estate; `--access FILE`
names another. Without one the room listens on loopback only, and whoever reaches it acts as its admin. The
room reads the file again when it changes; one that has become wrong is not taken, the log says why, and what
was read before goes on. `evac access check FILE` names every problem with file, line and column, and
`evac schema access` prints the JSON Schema. This page is made from the program's own table. How to set it up:
[Say who may do what](../how-to/access.md).

```yaml
address: https://war.example.com:8400
people:
  kim: {role: approver, password: "file:/etc/evac/kim", subject: "248289761001"}
  lee: {role: admin, key: 3q2+796tvu/erb7v3q2+796tvu/erb7v3q2+796tvu8=, subject: ""}
tokens:
  grafana: {role: viewer, hash: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}
tls: {cert: /etc/evac/room.pem, key: /etc/evac/room.key}
oidc:
  issuer: https://id.example.com
  client: evac
  client_secret: env:EVAC_OIDC
  roles: {sre: operator, leads: approver}
```

Nothing secret stands in it. Passwords and the client secret are references: `env:NAME`, `file:/path` (refused
where others may read it), or `command:/path ARGUMENTS`, a program without a shell whose first line of output
counts. Tokens are kept as hashes.

## Roles

| role | may |
|---|---|
| `viewer` | read all pages and all of the API |
| `operator` | also pause, resume, retry, skip, cancel, undo, attest, change limits; hold; write notes |
| `approver` | also approve |
| `admin` | everything |

A route that does not say which role it needs is refused to everybody.

## One person, one name

A run counts approvals by name, so nobody may have two. Whatever acts for a person (password, token with `of`,
key, the identity provider) acts under the name that the person has here. With `oidc` every entry therefore
says who it is there: `subject`. Somebody whom the identity provider names like an entry without being that
person is not let in. A token without `of` is a program, and approves nothing.

"""


def access_page() -> str:
    """Keys of access files."""
    lines = [_OPENING + "## Keys", "", *key_table(FIELDS, _absent), ""]
    for title, fields, words in (
        ("people", PERSON_FIELDS, "A mapping of names; of each person:"),
        ("tokens", TOKEN_FIELDS, "A mapping of names; of each token:"),
    ):
        lines += [f"### `{title}`", "", words, "", *key_table(fields, _absent), ""]
    for spec in FIELDS:
        if isinstance(spec.kind, Record):
            lines += [f"### `{spec.key}`", "", *key_table(spec.kind.fields, _absent), ""]
    return "\n".join(lines).rstrip() + "\n"


def _absent(spec: Field) -> str:
    if spec.required:
        return "an error"
    if spec.key == "subject":
        return "an error with `oidc`"
    if isinstance(spec.kind, Record):
        return "none" if spec.default is None else "as below"
    if isinstance(spec.kind, Mapped) or spec.default in ((), "", 0):
        return "never" if spec.key == "ends" else "none"
    return shown_default(spec)
