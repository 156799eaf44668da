"""kubectl's kubeconfig: the server of a context, the authorities it trusts, and the user.

Read as kubectl reads it, with four exceptions. A program that prints credentials (`exec`) runs only if the
user names it, and the file can neither choose where it is found nor make it run something else. A file with a
token must be in the folder of the kubeconfig. Passwords, proxies and impersonation are refused, not ignored.
Credentials stay in memory.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import Any, Final

from evac.estate.format.document import MAP, Node, read_bytes
from evac.estate.format.problems import Problems
from evac.estate.importers.kubernetes.objects import inside, plain_of, text_in
from evac.estate.importers.source_files import at, items_in, read_values, word
from evac.model.errors import InvalidInput
from evac.model.records import dataclass
from evac.net.secrets import MAX_SECRET_BYTES, Secret, is_one_word, output_of
from evac.net.tls import TlsFiles

PLUGIN_S: Final = 30.0
FILES_MAX: Final = 32
_CONTENT_MAX: Final = 2**20
_REFUSED: Final[Mapping[str, str]] = {
    "username": "the API server no longer accepts passwords; use a token or a certificate",
    "auth-provider": "kubectl no longer has such providers; use an exec plugin, a token or a certificate",
    "as": "evac does not impersonate users; use a context whose own user has read access",
    "as-groups": "evac does not impersonate users; use a context whose own user has read access",
    "as-uid": "evac does not impersonate users; use a context whose own user has read access",
}
"""User keys that evac does not support, and what to do instead."""
_MOUNTED: Final = (Path("/run/secrets"), Path("/var/run/secrets"))
"""Where a pod has the token of its service account."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_CHOOSES_ONLY: Final = frozenset(
    {
        *("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"),
        *("AWS_STS_REGIONAL_ENDPOINTS", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME"),
        *("CLOUDSDK_ACTIVE_CONFIG_NAME", "CLOUDSDK_CORE_ACCOUNT", "CLOUDSDK_CORE_PROJECT"),
        *("CLOUDSDK_COMPUTE_REGION", "CLOUDSDK_COMPUTE_ZONE", "USE_GKE_GCLOUD_AUTH_PLUGIN"),
        *("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_SUBSCRIPTION_ID", "AZURE_ENVIRONMENT"),
        *("AAD_LOGIN_METHOD", "AAD_SERVICE_PRINCIPAL_CLIENT_ID", "OCI_CLI_PROFILE", "OCI_CLI_REGION"),
    }
)
"""Variables that a kubeconfig may set: they choose among accounts, regions and settings that the user already
has. Any other could choose a program, library or trusted authority, or the host that gets the credentials.
"""


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """How one context reaches its API server. Its credentials are never printed."""

    context: str
    server: str
    """Address of the API server."""
    authority: bytes | None = field(repr=False)
    """CA certificates in PEM for the server's certificate; None: the authorities of this machine."""
    server_name: str
    """Name to check the server's certificate against, if not that of the address."""
    is_verified: bool
    token: Secret | None
    certificate: bytes | None = field(repr=False)
    key: bytes | None = field(repr=False)

    @contextmanager
    def tls_files(self) -> Iterator[TlsFiles]:
        """The PEM texts as the files that `ssl` needs: anonymous ones, in memory only."""
        opened: list[int] = []

        def held(name: str, content: bytes | None) -> Path | None:
            if content is None:
                return None
            opened.append(os.memfd_create(name))
            with os.fdopen(os.dup(opened[-1]), "wb") as handle:
                handle.write(content)
            return Path(f"/proc/self/fd/{opened[-1]}")

        try:
            yield TlsFiles(held("ca", self.authority), held("cert", self.certificate), held("key", self.key))
        finally:
            for handle in opened:
                os.close(handle)


def usual_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The files that kubectl reads: those of KUBECONFIG, else the user's."""
    named = tuple(Path(part) for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part)
    return named[:FILES_MAX] or (Path.home() / ".kube" / "config",)


def contexts_in(files: Sequence[Path]) -> tuple[str, ...]:
    """Names of the contexts, in the order of the files."""
    found = [
        name for _, tree in _trees(files) for item in items_in(tree, "contexts") if (name := _name(item))
    ]
    return tuple(dict.fromkeys(found))


def read_access(files: Sequence[Path], context: str, plugins: Sequence[str] = ()) -> ClusterAccess:
    """Resolve a context; empty: the current one. Plugins: exec programs that may run.

    Raises InvalidInput, which never quotes the file.
    """
    trees = _trees(files)
    context = context or next((name for _, tree in trees if (name := word(tree, "current-context"))), "")
    shown = f"context {context}" if context else "the current context"
    _, found = _entry(trees, "contexts", "context", context)
    if found is None:
        names = ", ".join(contexts_in(files)) or "none"
        raise InvalidInput(
            "import-kubeconfig", f"not found: {shown} in {_named(files)}", f"contexts: {names}"
        )
    home, cluster = _entry(trees, "clusters", "cluster", word(found, "cluster") or "")
    server = word(cluster, "server")
    if cluster is None or not server or not server.startswith(("http://", "https://")):
        message = f"{shown} has no cluster with a server address"
        raise InvalidInput("import-kubeconfig", message, f"check its cluster in {_named(files)}")
    if word(cluster, "proxy-url"):
        message = f"{shown} reaches its server through a proxy, which evac does not use"
        raise InvalidInput("import-kubeconfig", message, "run evac where it can reach the server directly")
    user_home, user = _entry(trees, "users", "user", word(found, "user") or "")
    for key, hint in _REFUSED.items():
        if at(user, key) is not None:
            raise InvalidInput("import-kubeconfig", f"{shown}: its user has {key}", hint)
    token, certificate, key_text = _credentials(user, user_home, shown)
    if at(user, "exec") is not None:
        token, certificate, key_text = _from_plugin(at(user, "exec"), user_home, shown, plugins)
    return ClusterAccess(
        context,
        server.rstrip("/"),
        _pem(cluster, "certificate-authority", home, shown),
        word(cluster, "tls-server-name") or "",
        word(cluster, "insecure-skip-tls-verify") != "true",
        token,
        certificate,
        key_text,
    )


def _trees(files: Sequence[Path]) -> list[tuple[Path, Node]]:
    """The folder and the content of each existing file. kubectl skips missing ones too."""
    found = []
    for path in files:
        if not path.exists():
            continue
        problems = Problems()
        tree = read_values(path.resolve(), problems)
        if tree is None or tree.kind != MAP:
            # The parser's message could quote a credential.
            line = next((f", line {one.place.line}" for one in problems.all() if one.place.line), "")
            message = f"{path} is not a kubeconfig{line}"
            raise InvalidInput("import-kubeconfig", message, "check it with: kubectl config view")
        found.append((path.resolve().parent, tree))
    if not found:
        message = f"no kubeconfig found: {_named(files)}"
        raise InvalidInput("import-kubeconfig", message, "name one with --kubeconfig FILE")
    return found


def _named(files: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in files)


def _name(item: Node) -> str:
    return word(item, "name") or ""


def _entry(trees: list[tuple[Path, Node]], section: str, key: str, name: str) -> tuple[Path, Node | None]:
    """The first entry with that name, and the folder that its paths are relative to."""
    for home, tree in trees:
        for item in items_in(tree, section):
            if name and _name(item) == name:
                return home, at(item, key)
    return Path(), None


def _credentials(
    user: Node | None, home: Path, shown: str
) -> tuple[Secret | None, bytes | None, bytes | None]:
    text = word(user, "token")
    if text is None and (named := at(user, "tokenFile")) is not None:
        path, folder = _token_file(named, home, shown)
        text = _content(path, f"the token of {shown}", folder).decode("ascii", "replace")
    token = _token(text, shown) if text else None
    return token, _pem(user, "client-certificate", home, shown), _pem(user, "client-key", home, shown)


def _token_file(named: Node, home: Path, shown: str) -> tuple[Path, Path]:
    """The file of a token, which goes to the server that the kubeconfig names, and the folder that it is in.
    Raises InvalidInput for any other folder: the author of a kubeconfig could have any file sent to a server.
    """
    try:
        path = (home / named.text).resolve()
    except ValueError:  # a zero byte
        path = Path("/")
    inside = next((one for one in (home, *_MOUNTED) if path.is_relative_to(one.resolve())), None)
    if inside is None:
        message = f"{_at(named)}{shown} takes its token from a file outside the folder of the kubeconfig"
        hint = f"if that server may get it, copy the file into {home}, and name the copy"
        raise InvalidInput("import-kubeconfig", message, hint)
    return path, inside


def _token(text: str, shown: str) -> Secret:
    if not is_one_word(text.strip()):
        message = f"the token of {shown} is not one line of visible characters"
        raise InvalidInput("import-kubeconfig", message, "log in again, or correct the kubeconfig")
    return Secret(text.strip(), f"the token of {shown}")


def _pem(node: Node | None, key: str, home: Path, shown: str) -> bytes | None:
    """A PEM text: the data of the entry, else the file that it names."""
    data = word(node, f"{key}-data")
    if data is not None:
        try:
            return base64.b64decode(data, validate=False)
        except (binascii.Error, ValueError):
            message = f"{key}-data of {shown} is not base64"
            raise InvalidInput("import-kubeconfig", message, "copy the kubeconfig again") from None
    where = word(node, key)
    return None if where is None else _content(home / where, f"{key} of {shown}")


def _content(path: Path, what: str, inside: Path | None = None) -> bytes:
    """The content of a file; inside: the folder that no link may lead out of. Raises InvalidInput."""
    problems = Problems()
    data = read_bytes(path, path if inside is None else inside, _CONTENT_MAX, False, problems)
    if data is None:
        why = "; ".join(one.message for one in problems.all())
        message = f"{what} cannot be read: {why}, {path}"
        raise InvalidInput("import-kubeconfig", message, "check the path in the kubeconfig")
    return data


def _from_plugin(
    plugin: Node | None, home: Path, shown: str, plugins: Sequence[str]
) -> tuple[Secret | None, bytes | None, bytes | None]:
    """Credentials that a program prints, run as kubectl does; only if the user allows that program."""
    program = _program(plugin, home, shown, plugins)
    version = word(plugin, "apiVersion") or "client.authentication.k8s.io/v1"
    asked = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    environ = {**os.environ, **_variables(plugin), "KUBERNETES_EXEC_INFO": json.dumps(asked)}
    arguments = [str(plain_of(one)) for one in items_in(plugin, "args")]
    name = Path(program).name[:80]
    code = 0
    try:
        said, code = output_of([program, *arguments], PLUGIN_S, environ)
        found: Any = json.loads(said) if not code and len(said) <= MAX_SECRET_BYTES else None
    except (TimeoutError, subprocess.TimeoutExpired):
        message = f"{name} did not answer within {PLUGIN_S:g} s"
        raise InvalidInput("import-plugin", message, "log in with it first, then import again") from None
    except OSError as error:
        message = f"{name} cannot be run: {error.strerror}"
        raise InvalidInput("import-plugin", message, "install it, or use another context") from None
    except (ValueError, RecursionError):
        found = None
    status = inside(found, "status")
    token, certificate, key = (
        text_in(status, name) for name in ("token", "clientCertificateData", "clientKeyData")
    )
    if not token and not (certificate and key):
        message = f"{name} printed no credentials" if not code else f"{name} ended with {code}"
        raise InvalidInput(
            "import-plugin", message, "run it by hand, and check that kubectl works with this context"
        )
    secret = _token(token, shown) if token else None
    return secret, certificate.encode() or None, key.encode() or None


def _program(plugin: Node | None, home: Path, shown: str, plugins: Sequence[str]) -> str:
    """The absolute path of the program, if the user named exactly that one. A bare name is looked up in our
    own PATH, never in the current folder; a command with a slash must be named by its full path.
    """
    command = word(plugin, "command") or ""
    needed = str(home / command) if "/" in command else command
    if not needed.isprintable():
        message = (
            f"{_at(at(plugin, 'command'))}{shown} gets its credentials from a command with control characters"
        )
        raise InvalidInput("import-plugin", message, "correct the command in the kubeconfig")
    if not command or needed not in plugins:
        message = f"{_at(at(plugin, 'command'))}{shown} gets its credentials from a command: {command}"
        hint = f"allow that command, if you trust it: --exec {shlex.quote(needed)}"
        raise InvalidInput("import-plugin", message, hint if command else "name it in the kubeconfig")
    if "/" in command:
        return needed
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = shutil.which(command, path=os.pathsep.join(one for one in folders if one.startswith("/")))
    if found is None:
        message = f"{_at(at(plugin, 'command'))}{command} cannot be run: it is in no folder of PATH"
        raise InvalidInput("import-plugin", message, "install it, or use another context")
    return found


def _variables(plugin: Node | None) -> dict[str, str]:
    """The variables that the file sets for the program. Raises InvalidInput for any that may do more than
    choose among what the user has.
    """
    found: dict[str, str] = {}
    for one in items_in(plugin, "env"):
        name, value = word(one, "name") or "", word(one, "value") or ""
        if not _NAME.fullmatch(name) or "\0" in value:
            message = f"{_at(one)}a variable of the credentials command has no valid name or value"
            raise InvalidInput("import-plugin-env", message, "correct it in the kubeconfig")
        if name not in _CHOOSES_ONLY:
            message = (
                f"{_at(one)}{name} could make the credentials command run another program, or send "
                "credentials to another host"
            )
            hint = f"remove {name} from the kubeconfig; if you need it, set it in your own shell"
            raise InvalidInput("import-plugin-env", message, hint)
        found[name] = value
    return found


def _at(node: Node | None) -> str:
    return "" if node is None else f"{node.file}:{node.line}:{node.column}: "
