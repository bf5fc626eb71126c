"""An application with traces of its own that calls a server: ADDRESS COLLECTOR.

Each scenario runs below a span of its name. Writes what the calls gave, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from headstream.client import AsyncClient, Cancelled, Client, InvalidArgument, NotFound

SECRET = "The chicken crossed"
PROMPT = [5 + i % 200 for i in range(1000)]
UNSAMPLED_TRACE = 0xABCDEF
tracer = trace.get_tracer("application")


def generate(client: Client) -> dict[str, Any]:
    generation = client.generate(PROMPT, max_new_tokens=8, ignore_eos=True)
    steps = list(generation)
    assert generation.timings is not None
    return {"text": generation.text, "steps": len(steps), "ns": generation.timings.compute_ns}


def continuations(client: Client) -> None:
    list(client.generate(SECRET, max_new_tokens=3, ignore_eos=True, n=3, temperature=1.0))


def embed(client: Client) -> None:
    client.embed([SECRET, "b"])


def bulk(client: Client) -> int:
    return len(list(client.embed_stream(f"{SECRET} {i}" for i in range(30))))


def score(client: Client) -> None:
    client.score([SECRET])


def session(client: Client) -> None:
    with client.decode(SECRET, logits="top") as decoding:
        for token in (5, 6, 7):
            decoding.append([token])


def unknown_model(client: Client) -> None:
    with suppress(NotFound):
        list(client.generate(SECRET, model="nobody"))


def refused(client: Client) -> None:
    with suppress(InvalidArgument):
        list(client.generate(SECRET, max_new_tokens=0))


def closed(client: Client) -> None:
    generation = client.generate(SECRET, max_new_tokens=1900, ignore_eos=True)
    next(generation)
    generation.close()
    with suppress(Cancelled):
        list(generation)


def forgotten(client: Client) -> None:
    for _ in client.generate(SECRET, max_new_tokens=1900, ignore_eos=True):
        break


async def asynchronous(address: str) -> int:
    async with AsyncClient(address) as client:
        await client.embed([SECRET])
        async with client.decode(SECRET, logits="top") as decoding:
            await decoding.append([5])
        steps = [step async for step in client.generate(SECRET, max_new_tokens=4, ignore_eos=True)]
        generation = client.generate(SECRET, max_new_tokens=1900, ignore_eos=True)
        await anext(generation)
        await generation.aclose()
        return len(steps)


def unsampled() -> trace.Span:
    """Of a caller who does not want this trace."""
    return trace.NonRecordingSpan(trace.SpanContext(UNSAMPLED_TRACE, 1, is_remote=False))


def main(address: str, collector: str) -> None:
    provider = TracerProvider(resource=Resource({"service.name": "application"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(collector)))
    trace.set_tracer_provider(provider)
    told: dict[str, Any] = {}
    with Client(address) as client:
        client.models()  # below no span
        for run in (generate, generate, *OTHERS):
            name = "again" if run.__name__ in told else run.__name__
            with tracer.start_as_current_span(name):
                told[name] = run(client)
        with trace.use_span(unsampled()):
            told["unsampled"] = generate(client)
    with tracer.start_as_current_span("asynchronous"):
        told["asynchronous"] = asyncio.run(asynchronous(address))
    provider.shutdown()
    sys.stdout.write(json.dumps(told))


OTHERS: tuple[Callable[[Client], Any], ...] = (
    continuations,
    embed,
    bulk,
    score,
    session,
    unknown_model,
    refused,
    closed,
    forgotten,
)

if __name__ == "__main__":
    main(*sys.argv[1:])
