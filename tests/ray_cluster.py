"""A Ray cluster of one machine, with the Serve config of deploy/, run by Ray's own commands."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

from replicas import free_port

TESTS = Path(__file__).resolve().parent
CONFIG = TESTS.parent / "deploy" / "ray" / "serve.yaml"
SERVING = "ray::ServeReplica"
MiB = 1 << 20

Metrics = dict[tuple[str, ...], float]


class Cluster:
    """What was deployed last, and how to reach it."""

    def __init__(self, directory: Path) -> None:
        self.address = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._directory = directory
        self._dashboard = f"127.0.0.1:{free_port()}"
        self._grpc_port, self._http_port = free_port(), free_port()
        folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        self._environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([*filter(None, folders), str(TESTS)]),
            "RAY_raylet_start_wait_time_s": "180",  # on a busy machine
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        }

    def start(self) -> None:
        """`ray start`, which stays in the foreground and ends with this process."""
        host, port = self._dashboard.split(":")
        self.process = subprocess.Popen(
            [
                *self._program("ray"),
                *("start", "--head", "--block", "--disable-usage-stats", "--num-cpus=8"),
                *(f"--port={free_port()}", f"--dashboard-host={host}", f"--dashboard-port={port}"),
                f"--dashboard-agent-listen-port={free_port()}",
                f"--object-store-memory={100 * MiB}",
                f"--temp-dir={self._directory / 'ray'}",
            ],
            env=self._environment,
            stdout=subprocess.DEVNULL,
        )
        self._wait(lambda: self._ask("/api/serve/applications/") is not None)

    def stop(self) -> None:
        """End the processes that were started here, and no others."""
        assert self.process is not None
        started = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(started, 30)

    def deploy(
        self, settings: dict[str, Any], import_path: str = "", **variables: str
    ) -> list[psutil.Process]:
        """`serve deploy`; the replicas, when they run and no others do."""
        config = yaml.safe_load(CONFIG.read_text())
        config["grpc_options"]["port"] = self._grpc_port
        config["http_options"] = {"port": self._http_port}
        [application] = config["applications"]
        application["args"] = settings
        application["import_path"] = import_path or application["import_path"]
        application["runtime_env"]["env_vars"] |= variables
        [deployment] = application["deployments"]
        deployment["ray_actor_options"] = {"num_cpus": 1}
        path = self._directory / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        before = set(self.replicas())
        command = [*self._program("serve"), "deploy", str(path), "-a", f"http://{self._dashboard}"]
        subprocess.run(command, env=self._environment, check=True, capture_output=True)
        self._wait(lambda: not before & set(self.replicas()) and self.running == 2)
        self.address = f"127.0.0.1:{self._grpc_port}"
        return self.replicas()

    def replicas(self) -> list[psutil.Process]:
        """The processes of the replicas of any age."""
        assert self.process is not None
        found: list[psutil.Process] = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error, IndexError):  # ended meanwhile
                if process.cmdline()[0].startswith(SERVING):
                    found.append(process)
        return found

    @property
    def running(self) -> int:
        """Replicas that Ray calls RUNNING; 0 while it deploys."""
        answer = self._ask("/api/serve/applications/") or {}
        application = answer.get("applications", {}).get("headstream", {})
        if application.get("status") == "DEPLOY_FAILED":
            raise AssertionError(application["message"])
        if application.get("status") != "RUNNING":
            return 0
        replicas = application["deployments"]["Headstream"]["replicas"]
        return sum(replica["state"] == "RUNNING" for replica in replicas)

    async def wait_until_running(self) -> None:
        """Until Ray has both replicas again."""
        await asyncio.to_thread(self._wait, lambda: self.running == 2)

    def _wait(self, condition: Any) -> None:
        end = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < end, "Ray does not get there"
            time.sleep(0.2)

    def _ask(self, path: str) -> dict[str, Any] | None:
        request = urllib.request.Request(
            f"http://{self._dashboard}{path}", headers={"Accept": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return cast("dict[str, Any]", yaml.safe_load(reply.read()))
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return None

    def _program(self, name: str) -> list[str]:
        return [sys.executable, str(Path(sys.executable).parent / name)]


@contextmanager
def running_cluster(directory: Path) -> Generator[Cluster]:
    cluster = Cluster(directory)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def metrics(replica: psutil.Process) -> Metrics:
    """Name and label values -> value; of the server in the replica."""
    for connection in replica.net_connections("tcp4"):
        if connection.status != psutil.CONN_LISTEN or connection.laddr.ip != "127.0.0.1":
            continue
        try:
            url = f"http://127.0.0.1:{connection.laddr.port}/metrics"
            with urllib.request.urlopen(url, timeout=10) as reply:
                text = reply.read().decode()
        except (OSError, ValueError, urllib.error.URLError):  # the port of the gRPC services
            continue
        return {
            (sample.name.removeprefix("headstream_"), *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    raise AssertionError("no admin port")


def total(replicas: Sequence[psutil.Process], *key: str) -> float:
    """The sum of a metric."""
    return sum(metrics(replica).get(key, 0.0) for replica in replicas)


def memory(replicas: Sequence[psutil.Process]) -> int:
    """Resident bytes of the replicas and their engines."""
    processes = [each for one in replicas for each in (one, *one.children())]
    return sum(process.memory_info().rss for process in processes)
