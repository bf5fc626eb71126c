"""Prompts that begin alike: what two prefix caches hold, by who chooses the replica."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from headstream.client import Client
from outcome import Table
from proxy_process import running_proxy
from replicas import Replica, running_replicas
from server_process import save_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PREFIXES, CALLS = 20, 10  # calls of each
SHARED, OWN = 512, 8  # tokens of a prompt
PREFIX_BYTES = SHARED * 768  # float32 keys and values of three layers with two heads of 16
ALL = PREFIXES * CALLS * (SHARED + OWN)

Ask = Callable[[Client, list[int]], None]


@pytest.fixture(scope="module")
def scarce(tmp_path_factory: pytest.TempPathFactory) -> Generator[list[Replica]]:
    """Replicas with room for 13 of the 20 prefixes each."""
    checkpoint = save_tiny_model(tmp_path_factory.mktemp("tiny-model"))
    size = str(13 * PREFIX_BYTES + (256 << 10))
    with running_replicas(checkpoint, 2, "--kv-cache-bytes", size) as replicas:
        yield replicas


def cached(replicas: list[Replica], address: str, ask: Ask, seed: int) -> float:
    """The part of all prompt tokens that was found in a cache. Prompts come in any order."""
    chance = random.Random(seed)
    prefixes = [chance.choices(range(5, 400), k=SHARED) for _ in range(PREFIXES)]
    order = [prefix for prefix in prefixes for _ in range(CALLS)]
    chance.shuffle(order)
    before = hits(replicas)
    with Client(address) as client:
        for prefix in order:
            ask(client, prefix + chance.choices(range(5, 400), k=OWN))
    return (hits(replicas) - before) / ALL


def hits(replicas: list[Replica]) -> float:
    key = ("prefix_hit_tokens_total", "tiny")
    return sum(replica.server.metrics().get(key, 0.0) for replica in replicas)


def plainly(client: Client, prompt: list[int]) -> None:
    client.generate(prompt, max_new_tokens=1).read_texts()


def by_prefix(client: Client, prompt: list[int]) -> None:
    plainly(client.for_prefix(prompt), prompt)


def test_calls_by_prefix_find_more_in_the_caches(
    scarce: list[Replica], tmp_path: Path, table: Table
) -> None:
    both = "ipv4:" + ",".join(replica.server.address for replica in scarce)
    found = {"round robin of the client": cached(scarce, both, plainly, seed=1)}
    for seed, proxy in enumerate(("envoy", "haproxy"), 2):
        with running_proxy(proxy, scarce, tmp_path) as address:
            name = f"{proxy}, fewest open calls"
            found[name] = cached(scarce, address, plainly, seed=10 * seed)
            found[f"{proxy}, by prefix"] = cached(scarce, address, by_prefix, seed=10 * seed + 1)
    for name, part in found.items():
        table.add(f"prompt tokens found cached, {name}: {part:.0%}", 0, PREFIXES * CALLS, 0)
    most = (CALLS - 1) / CALLS * SHARED / (SHARED + OWN)  # each prefix computed once
    for name, part in found.items():
        if "prefix" in name:
            assert 0.95 * most <= part <= most, found
        else:
            assert part < 0.75 * most, (found, "negative control")
