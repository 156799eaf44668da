"""`open_store`: what each URL opens, and clear words for those that open nothing."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from evac.cli.main import run
from evac.model.errors import StoreError
from evac.store.opening import ETCD_OPTIONS, check_store, open_store
from evac.store.port import Put


@pytest.mark.parametrize(
    ("url", "name", "quorum"),
    [
        ("memory:", "memory", False),
        ("sqlite:{folder}/evac.db", "sqlite", False),
        ("etcd:http://127.0.0.1:1, http://127.0.0.1:2/", "etcd", True),
        (
            "etcd:https://a:2379?user=evac&password=file:secret&ca=ca.pem&prefix=other&unsealed=allowed",
            "etcd",
            True,
        ),
        ("etcd:http://10.1.0.2:2379?plain=allowed&unsealed=allowed", "etcd", True),
        ("etcd:https://10.1.0.2:2379?seal=file:{folder}/key", "etcd", True),
        ("etcd:http://[::1]:2379?seal=file:{folder}/new,file:{folder}/key", "etcd", True),
        ("sqlite:{folder}/evac.db?seal=file:{folder}/key", "sqlite", False),
    ],
)
def test_a_url_names_a_store(tmp_path: Path, url: str, name: str, quorum: bool) -> None:
    for name_of in ("key", "new"):
        (tmp_path / name_of).write_text(name_of * 16)
        (tmp_path / name_of).chmod(0o600)

    async def story() -> None:
        store = open_store(url.format(folder=tmp_path))
        assert (store.name, store.quorum) == (name, quorum)
        await store.close()

    asyncio.run(story())


def test_what_one_process_of_sqlite_wrote_the_next_reads(tmp_path: Path) -> None:
    async def story() -> None:
        for value in (b"1", b"2"):
            store = open_store(f"sqlite:{tmp_path}/evac.db")
            before = await store.get("a")
            assert (before.value if before else b"") == (b"1" if value == b"2" else b"")
            await store.transact([], [Put("a", value)])
            await store.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "is not the address of a store"),
        ("memory:x", "is not the address of a store"),
        ("sqlite:", "is not the address of a store"),
        ("postgres:host", "is not the address of a store"),
        ("etcd:", "is not the address of a store"),
        ("etcd:127.0.0.1:2379", "not the address"),
        ("etcd:http://10.1.0.2:2379", "without TLS"),
        ("etcd:http://127.0.0.1:2379,http://10.1.0.2:2379?seal=env:K", "without TLS"),
        ("etcd:https://10.1.0.2:2379", "could make controllers run programs"),
        ("etcd:https://10.1.0.2:2379?unsealed=yes", "unsealed is allowed or left out"),
        ("etcd:http://a:2379/v3", "not the address"),
        ("etcd:http://user:hunter2@a:2379", "not the address"),
        ("etcd:http://a:2379?pasword=env:P", "no option pasword"),
        ("etcd:?user=a", "needs the address"),
        ("sqlite:no/such/folder/evac.db", "no such folder: no/such/folder"),
    ],
)
def test_other_urls_say_what_to_write(url: str, words: str) -> None:
    with pytest.raises(StoreError, match=words) as caught:
        open_store(url)
    assert caught.value.hint
    with pytest.raises(StoreError, match=words):
        check_store(url)
    assert "hunter2" not in caught.value.message


def test_the_help_and_the_page_name_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--help"]) == 0
    helped = capsys.readouterr().out
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "lock-the-store.md").read_text()
    for name in ETCD_OPTIONS:
        assert re.search(rf"[?& (]{name}=", helped), name
        assert re.search(rf"^\| .*`{name}[`=]", page, re.MULTILINE), name


def test_a_check_makes_no_file(tmp_path: Path) -> None:
    check_store(f"sqlite:{tmp_path}/evac.db")
    check_store("memory:")
    check_store("etcd:http://localhost:2379?user=evac")
    assert not list(tmp_path.iterdir())
