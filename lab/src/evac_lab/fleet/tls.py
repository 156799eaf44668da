"""What a fleet listens with when it speaks TLS. The certificates are made in a process of its own."""

from __future__ import annotations

import multiprocessing
import ssl
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files, and the SHA-256 of the certificate as hex, to pin it."""

    authority: Path
    chain: Path
    key: Path
    pin: str

    def context(self) -> ssl.SSLContext:
        """What the fleet listens with."""
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        found.minimum_version = ssl.TLSVersion.TLSv1_2
        found.load_cert_chain(self.chain, self.key)
        # Each ticket leaves a session in a cache of 20,000, and no controller is met twice in a hurry.
        found.num_tickets = 0
        return found


def make(folder: Path) -> Certificates:
    """New keys and certificates in a folder; the memory that making them takes goes with the process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_make, folder).result()


def _make(folder: Path) -> Certificates:
    from evac_lab.fleet import certificates

    return certificates.make(folder)
