"""The dashboard: every query asks for what a running server has."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from prometheus_queries import mistakes, scrape
from proxy_process import DEPLOY, find_program
from replicas import free_port
from server_process import Server

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
VALUES = {"$__rate_interval": "30s", "$instance": ".*", "$model": ".*"}
# Nothing was preempted, and no engine ended: a query for what never was finds nothing, rightly.


def test_queries_ask_for_what_a_server_has(used_server: Server) -> None:
    series = scrape(used_server.admin)
    wrong = {query: list(mistakes(query, series)) for query in QUERIES}
    assert len(QUERIES) > 25
    assert not any(wrong.values()), wrong


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ('headstream_requests_total{code="OK"}', []),
        ('headstream_request_total{code="OK"}', ["headstream_request_total"]),
        ('headstream_requests_total{status="OK"}', ["headstream_requests_total{status}"]),
        ("sum by (methods) (headstream_requests_total)", ["methods"]),
        ('headstream_requests_total{code=~"a=b|c"}', []),
    ],
)
def test_a_wrong_name_is_seen(query: str, expected: list[str], used_server: Server) -> None:
    """Negative control."""
    assert list(mistakes(query, scrape(used_server.admin))) == expected


def test_panels_have_places_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.slow
def test_a_real_prometheus_answers_every_query(used_server: Server, tmp_path: Path) -> None:
    with running_prometheus(used_server.admin, tmp_path) as address:
        wait_for(address, 'count_over_time(up{job="headstream"}[30s]) > 3')
        for query in QUERIES:
            text = query
            for name, value in VALUES.items():
                text = text.replace(name, value)
            assert ask(address, text), f"no data: {text}"


@contextmanager
def running_prometheus(admin: str, directory: Path) -> Generator[str]:
    """It scrapes every second."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s"}
    del config["rule_files"]
    [job] = config["scrape_configs"]
    job["static_configs"] = [{"targets": [admin]}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [find_program("prometheus"), f"--web.listen-address={address}"]
    command += [f"--config.file={directory}/prometheus.yml", "--log.level=error"]
    process = subprocess.Popen([*command, f"--storage.tsdb.path={directory}/data"])
    try:
        yield address
    finally:
        process.kill()
        process.wait()


def ask(address: str, query: str) -> list[Any]:
    """The series that answer; raises where the query is none."""
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=10) as reply:
        result: list[Any] = json.loads(reply.read())["data"]["result"]
    return result


def wait_for(address: str, query: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if ask(address, query):
                return
        except OSError:
            pass  # it has not come up yet
        time.sleep(0.5)
    raise AssertionError(f"never true: {query}")
