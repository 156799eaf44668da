"""Problems found while reading: every code with its severity and meaning, collected to the end within bounds.

Owns how a problem becomes a Diagnostic and how similar names are found; knows no file format. The page
docs/reference/diagnostics.md is made from the table of codes.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from evac.model.diagnostic import Diagnostic, Place, Severity
from evac.model.records import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """What a stable code means; `area` groups codes on the page."""

    severity: Severity
    area: str
    meaning: str


_FILES: Final = "Files"
_YAML: Final = "YAML"
_VALUES: Final = "Values"
_NAMES: Final = "Names"
_SENSE: Final = "Contradictions"
_TABLES: Final = "Tables"
_FACTS: Final = "Facts and their shelf life"
_IMPORTS: Final = "Imports"
_NOTICES: Final = "Alert channels (notices.yaml)"
_ACCESS: Final = "Access (access.yaml)"

_ERRORS: Final[tuple[tuple[str, str, str], ...]] = (
    ("estate-not-found", _FILES, "There is no file or folder with that name."),
    ("estate-empty", _FILES, "The folder contains no YAML file."),
    ("file-unreadable", _FILES, "The operating system refuses to open or read the file."),
    ("file-special", _FILES, "The name refers to a folder, pipe, socket or device, not to a regular file."),
    ("file-outside", _FILES, "A symbolic link points outside the folder of the estate or of the source."),
    ("file-too-large", _FILES, "The file is larger than evac allows (32 MiB for YAML, 2 GiB for a table)."),
    ("too-many-files", _FILES, "The folder contains more YAML files than evac allows (1,000)."),
    ("line-too-long", _FILES, "A line is longer than 65,536 bytes."),
    ("not-utf-8", _FILES, "The bytes are not UTF-8 text."),
    ("nul-byte", _FILES, "The file contains a NUL byte, so it is not text."),
    ("yaml-syntax", _YAML, "The text is not YAML; nothing after this place was read."),
    ("yaml-tag", _YAML, "An explicit tag such as !!python/object; tags are never used."),
    ("several-documents", _YAML, "The file contains more than one YAML document."),
    ("key-twice", _YAML, "The same key appears twice in one mapping."),
    ("key-not-text", _YAML, "A key is a list or a mapping."),
    ("merge-not-mapping", _YAML, "The merge key << is used with something other than a mapping."),
    ("alias-loop", _YAML, "An alias is used inside the value of its own anchor."),
    ("too-many-aliases", _YAML, "More aliases than evac follows (20,000)."),
    (
        "too-many-values",
        _YAML,
        "More values than evac allows (1,000,000), counting those that aliases expand to; or a source to "
        "import whose variables, groups or `extends` lead to far more than it contains.",
    ),
    (
        "too-deep",
        _YAML,
        "Values nested more than 32 levels deep in a file of evac, or 256 in a dump of Kubernetes.",
    ),
    ("value-too-long", _YAML, "A value longer than 4,096 characters."),
    ("version-missing", _VALUES, "No file states the version of the format."),
    ("not-upgraded", _VALUES, "A file that `evac estate upgrade` cannot rewrite word by word."),
    ("version-unknown", _VALUES, "A version of the format that this program does not read."),
    ("key-unknown", _VALUES, "A key that the format does not have."),
    ("value-missing", _VALUES, "A required value is missing or unknown."),
    ("wrong-type", _VALUES, "A list, mapping or single value where a different one is expected."),
    ("not-a-number", _VALUES, "The text is not a number with a unit."),
    ("not-whole", _VALUES, "A count that is not a whole number."),
    ("unit-missing", _VALUES, "A quantity that needs a unit is written without one."),
    ("unit-unknown", _VALUES, "A unit that evac does not know."),
    ("unit-wrong-dimension", _VALUES, "A unit of the wrong dimension."),
    ("negative", _VALUES, "A quantity below zero."),
    (
        "quantity-too-large",
        _VALUES,
        "A quantity above 2^53 base units, which JSON readers cannot represent exactly.",
    ),
    ("interval-ends", _VALUES, "An interval that does not have exactly two ends."),
    ("interval-reversed", _VALUES, "An interval whose low end is above its high end."),
    ("interval-windows", _VALUES, "An interval of rates with different time windows."),
    ("share-above-one", _VALUES, "A share above 100 %."),
    ("share-zero", _VALUES, "A share of zero."),
    ("share-by-zero", _VALUES, "A share written as a fraction that divides by zero."),
    ("not-a-rate", _VALUES, "The text is not a rate such as `600 per minute`."),
    ("not-a-date", _VALUES, "The text is not a date such as 2026-11-25."),
    ("not-a-choice", _VALUES, "A word that is not allowed here."),
    (
        "not-a-schedule",
        _VALUES,
        "Not a cron expression with five fields, or one that never matches.",
    ),
    ("not-a-flag", _VALUES, "Neither true nor false."),
    ("not-a-key", _VALUES, "Not an ed25519 public key in base64."),
    ("not-a-moment", _VALUES, "Not a time such as 2026-11-25T03:00:00Z."),
    ("text-too-long", _VALUES, "Text longer than 500 characters."),
    ("out-of-range", _VALUES, "A number outside the valid range."),
    ("id-invalid", _NAMES, "An ID that is empty, too long, or contains characters that are not allowed."),
    ("id-twice", _NAMES, "The same ID is described in two files."),
    ("id-taken", _NAMES, "Two things in the same namespace have the same ID."),
    (
        "domain-path-invalid",
        _NAMES,
        "A hall, feed or rack whose path does not start with a site of the estate.",
    ),
    ("hall-unknown", _NAMES, "A rack or an endpoint is in a hall that is not described."),
    ("hall-elsewhere", _SENSE, "An endpoint whose hall is at another site."),
    ("name-unknown", _NAMES, "A name that does not exist in the estate."),
    ("target-ambiguous", _NAMES, "A need must name a service or a store, not both."),
    ("load-above-budget", _SENSE, "The current load exceeds a power or cooling budget."),
    ("group-cycle", _SENSE, "Shared-fate groups that contain each other."),
    (
        "secret-in-clear",
        _SENSE,
        "A password or key is written in plain text. Refer to it instead: env:NAME, file:/path.",
    ),
    (
        "endpoint-never-asked",
        _SENSE,
        "An endpoint whose driver cannot do what the endpoint is for, so evac never uses it.",
    ),
    (
        "agent-key-shared",
        _SENSE,
        "Two agents whose endpoints share a key: a key stolen at one site opens both.",
    ),
    ("setting-missing", _SENSE, "A setting that the driver of an endpoint requires is missing."),
    ("setting-unknown", _SENSE, "A setting that the driver of an endpoint does not know."),
    ("setting-wrong", _SENSE, "A setting of an endpoint with a value that its driver cannot use."),
    ("backup-endpoint-shared", _SENSE, "One endpoint holds more than one backup."),
    (
        "backup-copied-from-nothing",
        _SENSE,
        "A backup that is copied from an endpoint with no other backup of the same data.",
    ),
    ("backup-copy-circle", _SENSE, "Backups that are copied from one another, so that none is ever taken."),
    ("backup-policy-impossible", _SENSE, "A backup policy that cannot be met."),
    ("backup-request-unable", _SENSE, "A request of a backup policy at an endpoint that cannot send it."),
    ("backup-request-elsewhere", _SENSE, "A request of a backup policy at an endpoint for other data."),
    ("two-primaries", _SENSE, "A store with more than one primary."),
    ("store-without-data", _SENSE, "A store whose members only vote, so no member has its data."),
    (
        "quorum-without-votes",
        _SENSE,
        "A store that needs a majority of votes, but no member has one.",
    ),
    ("data-at-witness", _SENSE, "A copy of a store at a witness site, which only votes."),
    ("rebuild-circle", _SENSE, "Stores that are rebuilt from each other, or from an unnamed source."),
    ("needs-itself", _SENSE, "A service that needs itself."),
    ("provider-of-own", _SENSE, "A service that has a provider but is not external."),
    (
        "external-runs-here",
        _SENSE,
        "An external service with a fact that only your own services have, such as replicas.",
    ),
    ("external-needs-ours", _SENSE, "An external service that needs one of your own services or stores."),
    ("data-outside", _SENSE, "A replica, copy or backup in a place where its data must not be (`data_in`)."),
    ("single-run-movable", _SENSE, "A service that must not run twice but may move while it runs."),
    ("alternatives-alike", _SENSE, "Alternatives must be at least two different services."),
    ("same-ends", _SENSE, "A link whose two ends are the same site."),
    ("link-twice", _SENSE, "Two links between the same two sites."),
    ("replicas-stated-twice", _SENSE, "Replicas of a service are placed both in YAML and in a table."),
    ("too-many-replicas", _SENSE, "More replicas of one service than can be planned (1,000,000)."),
    ("table-twice", _TABLES, "A table exists both as CSV and as Parquet."),
    ("table-unreadable", _TABLES, "The file is not readable as CSV or Parquet."),
    ("table-too-large", _TABLES, "More rows than evac allows (20,000,000)."),
    ("column-unknown", _TABLES, "A column that the table does not have."),
    ("column-missing", _TABLES, "A required column is missing."),
    ("column-twice", _TABLES, "The same column appears twice."),
    ("row-length", _TABLES, "A row with more or fewer cells than the header."),
    ("cell-invalid", _TABLES, "A cell with an invalid value for its column."),
    ("cell-missing", _TABLES, "A required cell is empty."),
    ("row-twice", _TABLES, "Two rows for the same server, rack or replica target."),
    ("bmc-contradiction", _TABLES, "A server that has no BMC but states a BMC address."),
    ("site-contradiction", _TABLES, "The site of a row is not the site of its rack or pool."),
    ("fact-twice", _FACTS, "The provenance of one value is stated twice."),
    ("fact-without-date", _FACTS, "A shelf life without the date from which it counts."),
    ("import-source-missing", _IMPORTS, "The source, or a file it requires, is missing."),
    ("import-truncated", _IMPORTS, "The source is truncated."),
    ("import-shape", _IMPORTS, "The source does not have the expected layout."),
    ("import-column-missing", _IMPORTS, "A host list without a column of host names."),
    ("import-unreachable", _IMPORTS, "A source in a recipe cannot be reached over the network."),
    ("nobody", _ACCESS, "Neither people nor an identity provider are configured, so no one could sign in."),
    ("not-a-hash", _ACCESS, "Not a token hash as printed by `evac access token`."),
    ("not-an-address", _ACCESS, "Not an address such as https://id.example.com."),
    ("address-open", _ACCESS, "An address without TLS that other machines can reach."),
    ("not-a-host", _ACCESS, "Not a host name."),
    ("not-a-path", _ACCESS, "A path that does not start with /."),
    ("not-a-network", _ACCESS, "Not a network such as 10.0.0.0/8."),
    (
        "certificate-unseen",
        _ACCESS,
        "A person signs in with a certificate, but no client CA is set.",
    ),
    ("subject-missing", _ACCESS, "A person has no identity at the identity provider."),
    ("program-approves", _ACCESS, "A token that does not act for a person has a role that may approve."),
    ("nobody-told", _NOTICES, "A notices.yaml without a channel."),
    ("channel-mixed", _NOTICES, "A channel for users that would also send them internal messages."),
    (
        "channel-way",
        _NOTICES,
        "A channel must use either Apprise, a webhook or mail, with the settings of that one.",
    ),
    ("address-invalid", _NOTICES, "The sender is not an email address."),
    (
        "mail-incomplete",
        _NOTICES,
        "A channel of mail without key, sender, page to subscribe, or `kinds: update`.",
    ),
    ("too-many-channels", _NOTICES, "More channels than evac supports (16; 1 of mail)."),
)

_WARNINGS: Final[tuple[tuple[str, str, str], ...]] = (
    ("fact-unknown", _FACTS, "The provenance of a value that the estate does not contain."),
    ("approval-not-believed", _SENSE, "The approval time is 0 s, but the policy waits for a person."),
    ("rpo-without-store", _SENSE, "A service states an rpo, but hard-needs no store whose data it limits."),
    ("need-twice", _SENSE, "The same need appears twice in one service."),
    ("replicas-do-not-add-up", _SENSE, "The stated number of replicas differs from the number placed."),
    (
        "replicas-on-dark-server",
        _SENSE,
        "Replicas are placed on a server, or in a pool of servers, that are dark or condemned. They count as "
        "down.",
    ),
    (
        "pool-is-off",
        _SENSE,
        "All servers listed for a pool are dark or condemned. It has no capacity until they are booted, "
        "whatever it states.",
    ),
    (
        "replicas-exceed-servers",
        _SENSE,
        "More replicas on one server than the spread of their service allows.",
    ),
    ("server-over-committed", _SENSE, "The replicas on a server demand more than the server has."),
    ("pool-over-committed", _SENSE, "The replicas in a pool demand more than its quota."),
    ("bmc-address-twice", _SENSE, "Two servers with the same BMC address: one of them cannot be reached."),
    ("serial-twice", _SENSE, "Two servers with the same serial number, so evac cannot distinguish them."),
    ("replicas-at-witness", _SENSE, "Replicas at a witness site, or in a pool there. It only votes."),
    ("store-without-primary", _SENSE, "A store whose members have data, but none of them is primary."),
    (
        "degraded-above-people",
        _SENSE,
        "degraded_people is higher than people.",
    ),
    (
        "overlay-only",
        _FILES,
        "The overlay describes something that is in no other file, and does not describe it completely.",
    ),
    (
        "import-dangling",
        _IMPORTS,
        "The source mentions a call to a service that it does not describe.",
    ),
    (
        "import-forbidden",
        _IMPORTS,
        "The account may not read one kind of object in a cluster. Everything else is imported.",
    ),
    (
        "import-use-unknown",
        _IMPORTS,
        "The source does not show all pods on the nodes of a cluster. What others use is unknown, so the "
        "capacity of its pools stays unknown.",
    ),
    (
        "import-unverified",
        _IMPORTS,
        "The kubeconfig turns off verification of the server, or the address starts with http://. Anyone in "
        "between could impersonate the server.",
    ),
    ("import-host-nowhere", _IMPORTS, "A host in a host list has no known site. It is left out."),
    (
        "import-row-length",
        _IMPORTS,
        "A row of a table with more or fewer cells than the header. It is left out.",
    ),
    (
        "import-cell",
        _IMPORTS,
        "A cell of a table with an invalid value for its column. The fact stays unknown.",
    ),
    (
        "import-unit-missing",
        _IMPORTS,
        "A quantity without a unit in its header or cell. It stays unknown.",
    ),
    (
        "import-host-twice",
        _IMPORTS,
        "The source contradicts itself about a host. The fact stays unknown.",
    ),
    ("import-name", _IMPORTS, "A name in the source that cannot be used as an ID. It is left out."),
    (
        "import-word-unknown",
        _IMPORTS,
        "evac does not recognise a word in the source. The fact stays unknown.",
    ),
    (
        "import-skipped",
        _IMPORTS,
        "One object in the source, or a value nested too deeply in it, cannot be used and is skipped. "
        "Everything else is imported.",
    ),
    (
        "import-conflict",
        _IMPORTS,
        "Two sources in a recipe disagree about a fact: the one listed first is used. Or a server of one may "
        "be a server of the other: they count as two.",
    ),
    ("import-twice", _IMPORTS, "The source describes the same thing twice. The first description is used."),
    (
        "import-no-volume",
        _IMPORTS,
        "A database without a volume: its data is lost when its container ends.",
    ),
    (
        "import-store-nowhere",
        _IMPORTS,
        "The dump does not show where a store keeps its data, so the effect of a loss on it stays unknown.",
    ),
    (
        "import-name-changed",
        _IMPORTS,
        "A name in the source was changed: to one that can be an ID, or to what another source calls it.",
    ),
    (
        "import-feed-missing",
        _IMPORTS,
        "A server is not known to have power from every feed of its rack. The rack counts as lost with the "
        "feeds that all its servers share; if there are none, its feeds stay unknown.",
    ),
    (
        "import-node-unavailable",
        _IMPORTS,
        "A node of a cluster takes no pods. Its pool does not count its capacity.",
    ),
)

_NOTES: Final[tuple[tuple[str, str, str], ...]] = (
    ("more-problems", _FILES, "More problems of one kind than are listed (200)."),
    ("facts-never-expire", _FACTS, "No date is given, so facts never expire."),
    ("fact-expired", _FACTS, "A fact is past its shelf life and counts as unknown."),
    ("default-taken", _FACTS, "A value that must be known is unknown. Its default is used."),
    (
        "import-same-place",
        _IMPORTS,
        "Two sources in a recipe may use different names for one site. They count as two sites.",
    ),
    (
        "import-same-name",
        _IMPORTS,
        "Two sources in a recipe may use different names for one service, store or hall. They count as two.",
    ),
    (
        "import-encoding",
        _IMPORTS,
        "A table is not UTF-8 text. It was read in the encoding that is named.",
    ),
    ("import-ignored", _IMPORTS, "Part of the source is of no use to evac and was not read."),
)

CODES: Final[Mapping[str, Code]] = MappingProxyType(
    {code: Code("error", area, meaning) for code, area, meaning in _ERRORS}
    | {code: Code("warning", area, meaning) for code, area, meaning in _WARNINGS}
    | {code: Code("note", area, meaning) for code, area, meaning in _NOTES}
)
"""Stable code -> its meaning."""


KEPT_MAX: Final = 200
"""Diagnostics kept per code; the rest is only counted, so that no flood hides another problem."""

_COMPARISONS_MAX: Final = 100_000
"""Names compared for suggestions while reading: about a second."""

_CANDIDATES_MAX: Final = 400
"""Names compared in full; if there are more, those with the most similar beginnings and ends."""

_GLANCES: Final = 4
"""This many names are compared at both ends in the time of one full comparison."""

_NAME_SHOWN: Final = 80


class Problems:
    """Collects diagnostics; never more than KEPT_MAX of a code, never the same one twice."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Place, str], Diagnostic] = {}
        self._about: dict[tuple[str, Place, str], str] = {}
        self._by_code: Counter[str] = Counter()
        self._more: Counter[str] = Counter()
        self._more_about: Counter[tuple[str, str]] = Counter()
        self._comparisons = 0
        self._last_place = Place("")

    def add(
        self,
        code: str,
        message: str,
        place: Place,
        hint: str = "",
        severity: Severity | None = None,
        *,
        about: str = "",
    ) -> None:
        """Records a problem, with its code's severity by default. about: the name for `settle`."""
        key = (code, place, message)
        if key in self._kept:
            return
        if self._by_code[code] >= KEPT_MAX:
            self._more[code] += 1
            self._last_place = place
            if about:
                self._more_about[code, about] += 1
            return
        level = severity or CODES[code].severity
        self._by_code[code] += 1
        self._kept[key] = Diagnostic(code, message, place, level, hint)
        if about:
            self._about[key] = about

    def suggest(self, name: str, known: Collection[str]) -> str:
        """`did you mean 'x'?` for the nearest known name, else empty; bounded work."""
        if self._comparisons >= _COMPARISONS_MAX or len(name) > _NAME_SHOWN:
            return ""
        slack = max(2, len(name) // 2)
        near_enough = [k for k in known if abs(len(k) - len(name)) <= slack]
        if len(near_enough) > _CANDIDATES_MAX:
            self._comparisons += len(near_enough) // _GLANCES
            near_enough.sort(key=lambda k: -_ends_alike(k, name))
        candidates = near_enough[:_CANDIDATES_MAX]
        self._comparisons += 1 + len(candidates)
        folded = {candidate.lower(): candidate for candidate in candidates}
        near = difflib.get_close_matches(name.lower(), folded, 1, 0.6)
        return f"did you mean '{folded[near[0]]}'?" if near else ""

    def settle(self, code: str, names: Collection[str]) -> None:
        """Forgets the problems of a code about these names: what was read since solves them."""
        for key in [key for key, name in self._about.items() if key[0] == code and name in names]:
            del self._kept[key], self._about[key]
            self._by_code[code] -= 1
        for pair in [pair for pair in self._more_about if pair[0] == code and pair[1] in names]:
            self._more[code] -= self._more_about.pop(pair)
        self._more = +self._more

    def sharpen(self, codes: Collection[str]) -> None:
        """Turns all problems of these codes into errors."""
        self._kept = {
            key: replace(one, severity="error") if one.code in codes else one
            for key, one in self._kept.items()
        }

    @property
    def has_errors(self) -> bool:
        return any(d.severity == "error" for d in self._kept.values())

    @property
    def count(self) -> int:
        return len(self._kept) + self._more.total()

    def all(self) -> tuple[Diagnostic, ...]:
        """All problems, in the order of the files."""
        found = sorted(self._kept.values(), key=lambda d: d.sort_key)
        if self._more:
            parts = ", ".join(f"{count:,} {code}" for code, count in sorted(self._more.items()))
            message = f"and more that are not listed: {parts}"
            found.append(Diagnostic("more-problems", message, self._last_place, "note", "fix these first"))
        return tuple(found)


def _ends_alike(one: str, other: str) -> int:
    """Number of letters that two names share at the beginning and end."""
    head = tail = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        head += 1
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        tail += 1
    return head + tail


def more_rows(count: int) -> str:
    """`and 1 more row like this`, `and 480 more rows like this`: those that are not listed."""
    return f"and {count:,} more row{'' if count == 1 else 's'} like this"


def shown(name: str) -> str:
    """A name from a file, made fit for a message: one line, quoted, bounded."""
    text = name if len(name) <= _NAME_SHOWN else name[: _NAME_SHOWN - 3] + "..."
    return "'" + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text) + "'"
