"""What is found in the cache, what is never skipped, and who shares it when. No model."""

from __future__ import annotations

import pytest

from dry_run import DryRun, text
from headstream.model.batch import PREFILL_GRID
from headstream.model.outputs import Outputs, PoolSpec, RowsSpec


def test_a_hit_saves_whole_chunks_and_never_the_last_token() -> None:
    """Shared beginnings of every interesting length, and prompts that end on the grid."""
    base = text(0, 1024)
    for shared, length, computed in [
        (255, 600, 600),
        (256, 600, 344),
        (511, 600, 344),
        (512, 600, 88),
        (600, 600, 88),
        (512, 512, 256),
        (512, 513, 1),
        (1024, 1024, 256),
    ]:
        run = DryRun()
        run.rows(base)
        prompt = base[:shared] + text(1, length - shared)
        assert run.rows(prompt) == computed
        assert run.rows(prompt) == min(computed, (length - 1) % PREFILL_GRID + 1)
        assert run.scheduler.lookup_tokens == len(base) + 2 * length
        assert run.scheduler.num_blocks_used == 0


def test_without_caching_everything_is_computed() -> None:
    run = DryRun(prefix_caching=False)
    prompt = text(0, 600)
    assert [run.rows(prompt), run.rows(prompt)] == [600, 600]
    assert run.scheduler.pool.num_used == 0
    assert (run.scheduler.lookup_tokens, run.scheduler.hit_tokens) == (0, 0)


def test_a_chunk_is_found_behind_its_own_beginning_only() -> None:
    """Equal tokens at another position, behind another beginning, or under another salt."""
    run = DryRun()
    x, y, tail = text(1, 256), text(2, 256), text(3, 30)
    assert run.rows(x + y + tail) == 542
    assert run.rows(y + tail) == 286, "y stood at 256"
    assert run.rows(y + x + tail) == 286, "y is here by now, x behind it is not"
    assert run.rows(x + x + tail) == 286
    assert run.rows(x + y + tail, cache_salt=b"other") == 542
    assert run.rows(x + y + tail, cache_salt=b"other") == 30
    assert run.rows(x + y + tail) == 30


def test_ids_that_read_alike_are_not_alike() -> None:
    """Token ids are hashed at full width: no two texts run together."""
    run = DryRun()
    run.rows([1, 256] * 200)
    assert run.rows([1 + (256 << 32), 0] * 200) == 400
    assert run.rows([256, 1] * 200) == 400


def test_generated_tokens_are_not_shared() -> None:
    """A prompt that goes on as another request was answered computes what follows the prompt."""
    run = DryRun()
    prompt = text(0, 300)
    assert run.rows(prompt, new=300) == 599
    assert run.rows(prompt + [7] * 300) == 344


@pytest.mark.parametrize(
    ("outputs", "computed"),
    [
        (Outputs(rows=RowsSpec(generated_layers=(1,))), 89),  # the row of the drawn token too
        (Outputs(rows=RowsSpec(prompt_layers=(1,))), 600),
        (Outputs(pool=PoolSpec(1, "mean", (tuple(range(600)),))), 600),
        (Outputs(pool=PoolSpec(1, "last", ((599,),))), 88),
        (Outputs(pool=PoolSpec(1, "mean", ((300, 301), (580,), (290,)))), 344),
        (Outputs(pool=PoolSpec(1, "mean", ((580,), (255,)))), 600),
        (Outputs(rows=RowsSpec((0,)), pool=PoolSpec(1, "last", ((599,),))), 600),
    ],
)
def test_rows_that_are_wanted_are_computed(outputs: Outputs, computed: int) -> None:
    """A hit ends before the first row that is sent or pooled; what is computed is kept for all."""
    run = DryRun()
    prompt = text(0, 600)
    run.rows(prompt)
    assert run.rows(prompt, outputs=outputs) == computed
    fresh = DryRun()
    fresh.rows(prompt, outputs=outputs)
    assert fresh.rows(prompt) == 88


def test_reported_rows_may_be_skipped_after_a_preemption() -> None:
    """Rows that went out are not wanted again: the restart finds what it computed itself."""
    run = DryRun(budget=PREFILL_GRID + 16)
    sequence = run.add(text(0, 600), outputs=Outputs(rows=RowsSpec(prompt_layers=(1,))))
    assert run.step() == run.step() == {1: 256}
    run.scheduler._holders.preempt(sequence)
    assert run.cached(sequence) == [True, True]
    assert run.step() == {1: 88}
    assert run.scheduler.hit_tokens == 512


def test_a_restart_behind_the_prompt_may_find_all_of_it() -> None:
    """Once a token is drawn, the row of the last prompt token is not needed for it."""
    run = DryRun()
    sequence = run.add(text(0, 512), new=10)
    assert [run.step() for _ in range(4)] == [{1: 512}, {1: 1}, {1: 1}, {1: 1}]
    run.scheduler._holders.preempt(sequence)
    assert run.step() == {1: 4}


def test_a_chunk_is_shared_as_soon_as_it_is_computed() -> None:
    """Four prompts at once under a small budget: the first computes, the others follow it."""
    run = DryRun(budget=300)
    for _ in range(4):
        run.add(text(0, 600), new=1)
    steps = [run.step() for _ in range(4)]
    assert steps == [{1: 256}, {1: 256}, {1: 88, 2: 88, 3: 88}, {4: 88}]
    assert not run.scheduler.has_work


def test_a_prompt_under_way_goes_over_to_chunks_computed_meanwhile() -> None:
    """The second began on its own; the first has overtaken it while it was paused."""
    run = DryRun(budget=512)
    first, second = run.add(text(0, 1100), new=2), run.add(text(0, 1100), new=2)
    run.scheduler.pause(first, paused=True)
    assert run.step() == {2: 512}
    run.scheduler.pause(first, paused=False)
    run.scheduler.pause(second, paused=True)
    assert [run.step() for _ in range(2)] == [{1: 512}, {1: 76}]
    run.scheduler.pause(second, paused=False)
    assert run.step() == {1: 1, 2: 76}
