"""The reference page on notices files, made from the table that their reader works from."""

from __future__ import annotations

from typing import Final

from evac.estate.codecs.notices import CHANNEL_FIELDS, FIELDS
from evac.estate.format.kinds import Field
from evac.estate.key_tables import key_table, shown_default

_OPENING: Final = """\
# Notices files

Who is told, over which channel, of what. One YAML file, `notices.yaml` in the folder of the estate;
`evac serve --notices FILE` names another. `evac notices check FILE` names every problem with file, line and
column, `evac notices test FILE` sends one message over each channel, and `evac schema notices` prints the
JSON Schema. This page is made from the program's own table. How to set it up:
[Be told](../how-to/notices.md).

```yaml
room: https://war.example.com:8400
channels:
  on-call: {apprise: env:EVAC_ON_CALL, least: error}
  desk: {apprise: "file:/etc/evac/desk.url"}
  tickets: {webhook: "file:/etc/evac/tickets.url", secret: "file:/etc/evac/tickets.key",
    kinds: [finding, plan, lag], least: info}
```

Nothing secret stands in it, addresses neither: whoever has the address of a chat can write there. They are
references: `env:NAME`, `file:/path` (refused where others may read it), or `command:/path ARGUMENTS`, a
program without a shell whose first line of output counts.

## Kinds

| kind | told when | severity |
|---|---|---|
| `site` | a site is suspect for 30 s; lost; what is done about it | warning; critical |
| `run` | it waits for a person; it ended; it cannot be read | critical; info, error if it failed; error |
| `break-glass` | somebody used a credential that was signed offline | critical |
| `trouble` | evac could not do something, or was refused | error |
| `tool` | a tool of recovery stands in one site only since then; in none | error; critical |
| `lag` | a copy is behind its primary by more than its `rpo` for 10 s | error |
| `plan` | a plan costs 20 % more outage than the best there was; is old; there is none | warning; error |
| `finding` | the audit has an error that was not there before | error |
| `status-page` | the public status page is not written for 2 min | warning |
| `update` | somebody published an update for users | - |

A concern is told when it begins, when it becomes graver, and when it is over: gone for half a minute. More
than three of one kind at once are one message. Errors and single-site tools that were there when evac first
looked are told to nobody: `evac audit` lists them.

`update` is for people outside, such as a mailing list of your customers or a chat of theirs. It goes as it
was published, title and text, each one by itself, with the address of the status page; `least` does not
count. A channel gets it only if it names this kind, and then names no other: nobody outside hears what is
for you alone. A form of the war room publishes, and `evac incident note INCIDENT TEXT --kind update` does.

"""


def notices_page() -> str:
    """Keys of notices files."""
    lines = [_OPENING + "## Keys", "", *key_table(FIELDS, _absent), ""]
    lines += ["### `channels`", "", "A mapping of names; of each channel:", ""]
    return "\n".join([*lines, *key_table(CHANNEL_FIELDS, _absent)]).rstrip() + "\n"


def _absent(spec: Field) -> str:
    if spec.key == "secret":
        return "an error with `webhook`"
    if spec.key in ("apprise", "webhook"):
        return "the other one must be there"
    absent = {"kinds": "all but `update`", "room": "no links", "page": "no link"}
    return absent.get(spec.key) or shown_default(spec)
