"""Changes of the store that are cut, and those whose callers leave."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from lancedb.table import AsyncTable

from headstream.lookup import store as store_module
from headstream.lookup.store import Store
from stored_documents import FIRST, SECOND, before_commits, cluster, documents, identity, kept


@pytest.mark.parametrize("what", ["add", "replace", "delete"])
async def test_what_was_cut_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The service ends before each of the commits: no digest of what is not all there."""
    whole: set[tuple[frozenset[str], frozenset[str], str]] = {
        (frozenset({"abc"}), frozenset("abc"), "x"),
        (frozenset({"de"}), frozenset("de"), "y"),
    }
    cuts = 0
    opened: list[Store] = []
    for cut in range(10):
        store = await Store.open(str(tmp_path / str(cut)), {}, identity())
        opened.append(store)
        if what != "add":
            await store.write([FIRST])

        def end(number: int, at: int = cut) -> None:
            if number == at:
                raise ConnectionAbortedError

        with monkeypatch.context() as cutting:
            before_commits(cutting, end)
            try:
                await (store.delete(["7"]) if what == "delete" else store.write([SECOND]))
            except ConnectionAbortedError:
                cuts += 1
            else:
                break
        chunks, words, digest = await kept(store)
        assert not digest or (frozenset(chunks), frozenset(words), digest) in whole
        await store.write([FIRST])
        assert await kept(store) == ({"abc"}, set("abc"), "x")
    assert cuts == (2 if what == "add" else 3)  # the last round was not cut
    for store in opened:
        await store.close()


@pytest.mark.parametrize("what", ["replace", "delete"])
async def test_who_leaves_does_not_stop_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for cut in range(3):
        store = await Store.open(str(tmp_path / str(cut)), {}, identity())
        await store.write([FIRST])
        change = store.delete(["7"]) if what == "delete" else store.write([SECOND])
        call: asyncio.Task[Any] = asyncio.create_task(change)

        def leave(number: int, at: int = cut, call: asyncio.Task[Any] = call) -> None:
            if number == at:
                call.cancel()

        with monkeypatch.context() as leaving:
            before_commits(leaving, leave)
            with pytest.raises(asyncio.CancelledError):
                await call
            await store.close()
        again = await Store.open(str(tmp_path / str(cut)), {}, identity())
        expected = (set(), set(), None) if what == "delete" else ({"de"}, set("de"), "y")
        assert await kept(again) == expected
        await again.close()


@pytest.mark.parametrize("what", ["replace", "delete"])
async def test_who_leaves_before_a_change_is_begun_takes_it_along(
    tmp_path: Path, what: str
) -> None:
    """Carried out later, it would undo what another caller was told meanwhile."""
    store = await Store.open(str(tmp_path), {}, identity())
    await store.write([FIRST])
    async with store._writing:  # as while an index is brought up to date
        call = store.delete(["7"]) if what == "delete" else store.write([SECOND])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.05)
        assert await store.digests(["7"]) == {"7": "x"}, "so it need not be added again"
    await store.write(documents(cluster(1), 8))  # after whatever else waits
    assert await kept(store) == ({"abc", "Word"}, {*"abc", "Word"}, "x")
    await store.close()


async def test_what_is_being_changed_has_no_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first moment on: its caller may have left, and comes again."""
    store = await Store.open(str(tmp_path), {}, identity())
    await store.write([FIRST, *documents(cluster(1), 8)])
    begun, may_go_on = asyncio.Event(), asyncio.Event()
    count_rows = AsyncTable.count_rows

    async def count_slowly(table: AsyncTable, *arguments: Any) -> int:
        begun.set()
        await may_go_on.wait()
        return await count_rows(table, *arguments)

    monkeypatch.setattr(AsyncTable, "count_rows", count_slowly)
    call = asyncio.create_task(store.delete(["7"]))
    await begun.wait()
    call.cancel()
    assert await store.digests(["7", "8"]) == {"7": "", "8": "digest 8"}
    may_go_on.set()
    await store.write([FIRST])
    assert await store.digests(["7", "8"]) == {"7": "x", "8": "digest 8"}
    await store.close()


async def test_a_change_that_fails_when_its_caller_has_left_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await Store.open(str(tmp_path), {}, identity())
    calls: list[asyncio.Task[None]] = []

    def leave_and_fail(_: int) -> None:
        calls[0].cancel()
        raise OSError("no room")

    with structlog.testing.capture_logs() as logged, monkeypatch.context() as failing:
        before_commits(failing, leave_and_fail)
        calls.append(asyncio.create_task(store.write([FIRST])))
        await asyncio.wait(calls)
        await store.close()
    assert [(line["log_level"], line["error"]) for line in logged] == [("warning", "no room")]


async def test_closing_waits_for_a_change_so_long_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "CLOSE_SECONDS", 0.05)
    store = await Store.open(str(tmp_path), {}, identity())
    await store.write([FIRST])

    async def never(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as hanging:
        hanging.setattr(AsyncTable, "delete", never)
        call = asyncio.create_task(store.delete(["7"]))
        await asyncio.sleep(0.2)
        await asyncio.wait_for(store.close(), 10)
        with pytest.raises(asyncio.CancelledError):
            await call
    again = await Store.open(str(tmp_path), {}, identity())
    assert await again.digests(["7"]) == {"7": ""}
    await again.close()
