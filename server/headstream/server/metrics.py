"""Every metric of the server, named once, in a registry of its own.

Labels take few values: methods of the known services, gRPC codes, and configured model names.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from headstream.server.call import Call
from headstream.server.engine.messages import StepReport
from headstream.server.engine.priority import Priority
from headstream.server.limits import Limits

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
TOKENS = tuple(2**power for power in range(15))
SEQUENCES = tuple(2**power for power in range(9))

UNKNOWN_METHOD = "unknown"
MODEL = ("model",)
PRIORITY = ("model", "priority")


class Metrics:
    """Counters, gauges and histograms. Observing one is all that anybody does with them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, labels: tuple[str, ...] = MODEL) -> Counter:
            return Counter(f"headstream_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = MODEL) -> Gauge:
            return Gauge(f"headstream_{name}", text, labels, registry=registry)

        def histogram(
            name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = MODEL
        ) -> Histogram:
            return Histogram(f"headstream_{name}", text, labels, registry=registry, buckets=buckets)

        # Calls
        self.requests = counter("requests", "Calls that ended.", ("method", "code"))
        self.request_seconds = histogram(
            "request_seconds", "Time from a call's arrival to its end.", SECONDS, ("method",)
        )
        self.requests_open = gauge("requests_open", "Calls being served.", ("method",))
        self.aborts = counter(
            "aborts", "Sequences left before the engine was done.", ("model", "reason")
        )
        self.reply_bytes = counter("reply_bytes", "Bytes of tensors sent.", ("model", "kind"))
        self.stream_items = gauge(
            "stream_items", "Items of EmbedStream calls that were read and are not answered yet."
        )
        self.tasks = gauge("event_loop_tasks", "Tasks of the front's event loop.", ())
        self.tasks.set_function(_count_tasks)
        # Sequences
        self.input_tokens = counter("input_tokens", "Tokens read.")
        self.output_tokens = counter("output_tokens", "Tokens generated.")
        self.first_token = histogram(
            "time_to_first_token_seconds", "From a call's arrival to its first token.", SECONDS
        )
        self.inter_token = histogram(
            "inter_token_latency_seconds", "Between two tokens of a sequence.", SECONDS
        )
        self.queue_seconds = histogram(
            "queue_seconds", "From submission to the first step.", SECONDS, PRIORITY
        )
        # Engine
        self.engine_up = gauge("engine_up", "1 while the engine answers.")
        self.engine_restarts = counter(
            "engine_restarts", "Times that an engine which had ended was started again."
        )
        self.running = gauge("sequences_running", "Sequences in the engine's batch.")
        self.queue_depth = gauge("queue_depth", "Sequences waiting in the engine.")
        self.queue_first = gauge(
            "queue_first_steps", "Sequences waiting for their first step, by priority.", PRIORITY
        )
        self.queue_tokens = gauge("queue_tokens", "Tokens waiting in the engine.")
        self.kv_used = gauge("kv_blocks_used", "Blocks of key/value memory that sequences hold.")
        self.kv_cached = gauge(
            "kv_blocks_cached", "Blocks that only the prefix cache holds: free for the taking."
        )
        self.kv_total = gauge("kv_blocks_total", "Blocks of key/value memory.")
        self.preemptions = counter(
            "preemptions",
            "Sequences preempted for memory, a tenant that ran nothing, or a more urgent one.",
        )
        self.lookup_tokens = counter(
            "prefix_lookup_tokens", "Prompt tokens looked up in the prefix cache."
        )
        self.hit_tokens = counter(
            "prefix_hit_tokens", "Prompt tokens found there, which were not computed again."
        )
        self.step_seconds = histogram("step_seconds", "Duration of a step.", SECONDS)
        self.step_tokens = histogram("step_tokens", "Tokens of a step (N).", TOKENS)
        self.step_sequences = histogram("step_sequences", "Sequences of a step (S).", SEQUENCES)
        # Constants
        self.limit = gauge("limit", "Configured limits.", ("model", "limit"))
        Info("headstream_build", "What is running.", registry=registry).info(
            {"version": package_version(), "python": platform.python_version()}
        )

    def count_reply(self, call: Call, model: str, kind: str, num_bytes: int) -> None:
        """Bytes of tensors of one ``kind`` that a call is answered with."""
        call.tensor_bytes += num_bytes
        self.reply_bytes.labels(model, kind).inc(num_bytes)

    def set_limits(self, model: str, limits: Limits) -> None:
        """Show the limits of a model."""
        for name in Limits.__slots__:
            self.limit.labels(model, name).set(getattr(limits, name))

    def step_listener(self, model: str) -> Callable[[StepReport], None]:
        """A listener for the engine's reports of one model."""
        return _StepListener(self, model).observe


def _count_tasks() -> float:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # looked at where no loop runs
        return 0.0


class _StepListener:
    """Shows what a step tells. The metrics of the model are looked up once, not in every step."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._gauges = {
            "running": metrics.running.labels(model),
            "waiting": metrics.queue_depth.labels(model),
            "waiting_tokens": metrics.queue_tokens.labels(model),
            "blocks_used": metrics.kv_used.labels(model),
            "blocks_cached": metrics.kv_cached.labels(model),
            "blocks_total": metrics.kv_total.labels(model),
        }
        self._first = [metrics.queue_first.labels(model, each.word) for each in Priority]
        self._step_seconds = metrics.step_seconds.labels(model)
        self._step_tokens = metrics.step_tokens.labels(model)
        self._step_sequences = metrics.step_sequences.labels(model)
        self._last_step = 0
        self._counts = {  # what the engine counts since its start
            "preemptions": _Growth(metrics.preemptions.labels(model)),
            "lookup_tokens": _Growth(metrics.lookup_tokens.labels(model)),
            "hit_tokens": _Growth(metrics.hit_tokens.labels(model)),
        }

    def observe(self, report: StepReport) -> None:
        stats = report.stats
        for name, gauge in self._gauges.items():
            gauge.set(getattr(stats, name))
        for first, count in zip(self._first, stats.waiting_first, strict=False):
            first.set(count)
        for name, growth in self._counts.items():
            growth.observe(getattr(stats, name))
        if stats.step != self._last_step:  # otherwise a heartbeat
            self._last_step = stats.step
            self._step_seconds.observe(stats.step_ns / 1e9)
            self._step_tokens.observe(stats.num_tokens)
            self._step_sequences.observe(stats.num_seqs)


class _Growth:
    """Carries a count of the engine's over to a counter that outlives the engine."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._last = 0

    def observe(self, total: int) -> None:
        new = total - self._last
        self._counter.inc(new if new >= 0 else total)  # a restarted engine counts from zero again
        self._last = total


def package_version() -> str:
    """Of Headstream itself."""
    try:
        return version("headstream")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
