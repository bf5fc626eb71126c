"""The real server as a process of its own, with a tiny random model."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

import tiny_tokenizers
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import logits_service_pb2_grpc, types_pb2
from tiny_models import save_tiny


@dataclass
class Server:
    """A running server and a channel to it."""

    process: subprocess.Popen[str]
    address: str
    channel: grpc.Channel
    admin: str

    def engines(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def health(self, service: str = "") -> int:
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        status: int = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status
        return status

    def generate(self, num_tokens: int, timeout: float = 60) -> Any:
        stub: Any = logits_service_pb2_grpc.LogitsServiceStub(self.channel)
        stop = pb.StopConditions(max_new_tokens=num_tokens, ignore_eos=True)
        prompt = types_pb2.Input(text="The chicken")
        return stub.Generate(pb.GenerateRequest(prompt=prompt, stop=stop), timeout=timeout)

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Name and label values -> value."""
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=60) as reply:
            text = reply.read().decode()
        return {
            (sample.name.removeprefix("headstream_"), *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def save_tiny_model(directory: Path) -> Path:
    """A random Gemma 3 with a byte-level tokenizer."""
    save_tiny("gemma3", directory, vocab_size=420)
    tiny_tokenizers.byte_level_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


@contextmanager
def running_server(
    checkpoint: Path, *flags: str, name: str = "tiny", stderr: Path | None = None
) -> Generator[Server]:
    """``stderr``: a file for the log; None: ours."""
    command = [sys.executable, "-m", "headstream.server.cli", "serve", "--events"]
    command += ["--models", f"{name}={checkpoint}", "--port", "0", "--admin-port", "0"]
    command += ["--threads", "1", "--drain-delay", "0.5", *flags]
    with stderr.open("w") if stderr is not None else nullcontext() as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        address = admin = ""
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "ready":
                address = event["address"]
                admin = f"127.0.0.1:{event['admin_port']}"
                break
        assert address, "the server did not start"
        with grpc.insecure_channel(address) as channel:
            yield Server(process, address, channel, admin)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
