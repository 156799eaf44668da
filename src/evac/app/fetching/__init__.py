"""Fetch network sources as files for an importer.

`servers` queries NetBox and Prometheus, `clusters` the API servers of Kubernetes that a `kubeconfig` names.
"""

from __future__ import annotations

from pathlib import Path

from evac.app.fetching.clusters import fetch_cluster
from evac.app.fetching.kubeconfig import contexts_in, usual_files
from evac.app.fetching.servers import fetch, is_server
from evac.estate.format.problems import Problems
from evac.estate.importers.imported import Live, Options

__all__ = ["contexts_in", "fetch", "fetch_live", "is_server", "usual_files"]


def fetch_live(kind: str, live: Live, options: Options, into: Path, problems: Problems) -> Path:
    """Write the responses of a live source to a file or folder in `into`. Partial refusals become problems.

    Raises EvacError if it cannot be read at all.
    """
    if live.address:
        return fetch(kind, live.address, into, live.token, problems=problems)
    return fetch_cluster(live, options.namespaces, into, problems)
