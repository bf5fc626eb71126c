from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import front_values
from headstream.server.engine.messages import StepReport, StepStats
from headstream.server.limits import Limits
from headstream.server.metrics import Metrics


def report(step: int, preemptions: int = 0, lookups: int = 0, hits: int = 0) -> StepReport:
    stats = StepStats(
        step=step,
        num_tokens=12,
        num_seqs=3,
        step_ns=2_000_000,
        running=3,
        waiting=4,
        waiting_tokens=50,
        blocks_used=6,
        blocks_total=7,
        preemptions=preemptions,
        blocks_cached=1,
        lookup_tokens=lookups,
        hit_tokens=hits,
    )
    return StepReport((), stats)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"headstream_{name}", {"model": "m", **labels})


def test_steps_are_observed_and_heartbeats_are_not() -> None:
    metrics = Metrics()
    listen = metrics.step_listener("m")
    for step in (1, 1, 2):
        listen(report(step))
    assert value(metrics, "step_seconds_count") == 2
    assert value(metrics, "step_seconds_sum") == 0.004
    assert value(metrics, "step_tokens_sum") == 24
    assert value(metrics, "step_sequences_sum") == 6
    assert value(metrics, "queue_depth") == 4
    assert value(metrics, "queue_tokens") == 50
    assert value(metrics, "sequences_running") == 3
    assert (value(metrics, "kv_blocks_used"), value(metrics, "kv_blocks_total")) == (6, 7)
    assert value(metrics, "kv_blocks_cached") == 1


def test_counts_go_on_over_a_restart() -> None:
    metrics = Metrics()
    listen = metrics.step_listener("m")
    for step, preemptions, lookups, hits in ((1, 2, 600, 0), (2, 5, 900, 256), (1, 1, 300, 0)):
        listen(report(step, preemptions, lookups, hits))
    assert value(metrics, "preemptions_total") == 6
    assert value(metrics, "prefix_lookup_tokens_total") == 1200
    assert value(metrics, "prefix_hit_tokens_total") == 256


def test_limits_are_shown() -> None:
    metrics = Metrics()
    limits = front_values.make_limits()
    metrics.set_limits("m", limits)
    for name in Limits.__slots__:
        assert value(metrics, "limit", limit=name) == getattr(limits, name)


def test_the_text_is_well_formed_and_the_build_is_told() -> None:
    metrics = Metrics()
    text = generate_latest(metrics.registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(name.startswith("headstream_") for name in families)
    [sample] = families["headstream_build_info"].samples
    assert {"version", "python"} <= set(sample.labels)


def test_two_servers_in_one_process_do_not_mix() -> None:
    first, second = Metrics(), Metrics()
    first.input_tokens.labels("m").inc()
    assert value(second, "input_tokens_total") is None
