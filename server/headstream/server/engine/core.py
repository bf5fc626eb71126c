"""The engine core: takes messages, runs steps, reports. Knows no text, no sockets, no gRPC."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

import torch

from headstream.model import pooling
from headstream.model.batch import StepOutput
from headstream.model.runner import Runner
from headstream.server.engine.messages import (
    Abort,
    Delta,
    Flow,
    Frame,
    FromEngine,
    Lookup,
    LookupReply,
    Rows,
    StepReport,
    StepStats,
    Submit,
    ToEngine,
    Token,
)
from headstream.server.engine.packing import Packed, pack
from headstream.server.engine.report import Frames
from headstream.server.engine.scheduler import Scheduled, Scheduler
from headstream.server.engine.sequence import Sequence

Send = Callable[[FromEngine, Frames], None]


class EngineCore:
    """``step()`` is the architecture: schedule, run, update, report."""

    def __init__(self, runner: Runner, scheduler: Scheduler, send: Send) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._send = send
        self._steps = 0
        self._refused: list[Delta] = []

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return self._scheduler.has_work or bool(self._refused)

    def step(self) -> None:
        """Compute the next rows of every scheduled sequence and report what came of it."""
        begin = time.monotonic_ns()
        frames = Frames()
        deltas, self._refused = self._refused, []
        scheduled = self._scheduler.schedule()
        if scheduled:
            try:
                packed = pack(scheduled, self._scheduler.pool.block_size)
                output = self._runner.run(packed.batch)
                deltas += self._update(scheduled, packed, output, frames, begin)
            except Exception as error:  # one step's fault ends its own sequences, not the engine
                deltas += self._fail(scheduled, error)
            self._steps += 1
        self._report(deltas, frames, scheduled, time.monotonic_ns() - begin)

    def heartbeat(self) -> None:
        """Report that the engine is alive and idle."""
        self._report([], Frames(), [], 0)

    def handle(self, message: ToEngine) -> None:
        """Take one message from the front."""
        match message:
            case Submit():
                self._submit(message)
            case Abort(id=sequence_id):
                if (sequence := self._scheduler.get(sequence_id)) is not None:
                    self._scheduler.remove(sequence)
            case Flow(id=sequence_id, paused=paused):
                if (sequence := self._scheduler.get(sequence_id)) is not None:
                    sequence.paused = paused
            case Lookup():
                self._lookup(message)
            case _:
                raise AssertionError(f"not a message for the core: {message}")

    def _submit(self, spec: Submit) -> None:
        sequence = Sequence(spec, arrival_ns=time.monotonic_ns())
        if not spec.token_ids or not self._scheduler.fits(sequence):
            error = f"sequence of {sequence.max_tokens} tokens does not fit the KV memory"
            self._refused.append(Delta(spec.id, finish="error", error=error))
        else:
            self._scheduler.add(sequence)

    def _lookup(self, message: Lookup) -> None:
        frames = Frames()
        try:
            rows = frames.add(self._runner.lookup(message.token_ids), message.dtype)
            self._send(LookupReply(message.id, rows), frames)
        except Exception as error:  # answered, never raised: the loop must go on
            self._send(LookupReply(message.id, None, repr(error)), Frames())

    def _update(
        self,
        scheduled: list[Scheduled],
        packed: Packed,
        output: StepOutput,
        frames: Frames,
        begin: int,
    ) -> list[Delta]:
        """Move counters, take drawn tokens, free what is done; the news of each sequence."""
        rows, vectors = self._collect_taps(packed, output, frames)
        tokens: dict[Sequence, Token] = {}
        for share in scheduled:
            share.sequence.num_computed += share.num_rows
            share.sequence.num_reported = max(
                share.sequence.num_reported, share.sequence.num_computed
            )
        for sequence, row in zip(packed.token_sequences, output.rows, strict=True):
            tokens[sequence] = frames.token(len(sequence.output_ids), row)
            sequence.append(row.token_id)
        now = time.monotonic_ns()
        deltas: list[Delta] = []
        for share in scheduled:
            sequence = share.sequence
            first = sequence.first_step_ns == 0
            sequence.first_step_ns = sequence.first_step_ns or begin
            done = sequence.is_done
            if done:
                self._scheduler.remove(sequence)
            if first or done or sequence in tokens or sequence in rows:
                deltas.append(
                    Delta(
                        id=sequence.spec.id,
                        token=tokens.get(sequence),
                        rows=tuple(rows.get(sequence, ())),
                        vectors=vectors.get(sequence),
                        finish=(sequence.finish or "length") if done else None,
                        queue_ns=sequence.first_step_ns - sequence.arrival_ns,
                        compute_ns=now - sequence.first_step_ns,
                    )
                )
        return deltas

    def _collect_taps(
        self, packed: Packed, output: StepOutput, frames: Frames
    ) -> tuple[dict[Sequence, list[Rows]], dict[Sequence, Frame]]:
        """Tapped rows by sequence, and pooled vectors of the prompts that are now complete."""
        rows: dict[Sequence, list[Rows]] = defaultdict(list)
        vectors: dict[Sequence, Frame] = {}
        for part in packed.tap_ranges:
            sequence = part.sequence
            values = output.taps[part.layer][part.offset : part.offset + part.count]
            if not part.pooled:
                frame = frames.add(values, sequence.spec.outputs.rows.dtype)
                rows[sequence].append(Rows(part.layer, part.start, frame))
                continue
            sequence.pool_rows.append(values)
            spec = sequence.spec.outputs.pool
            if spec is not None and part.start + part.count == sequence.num_prompt:
                prompt = torch.cat(sequence.pool_rows)  # [prompt, d]
                vectors[sequence] = frames.add(pooling.pool(prompt, spec))
        return rows, vectors

    def _fail(self, scheduled: list[Scheduled], error: Exception) -> list[Delta]:
        """End every sequence of a step that failed."""
        for share in scheduled:
            self._scheduler.remove(share.sequence)
        return [
            Delta(share.sequence.spec.id, finish="error", error=repr(error)) for share in scheduled
        ]

    def _report(
        self, deltas: list[Delta], frames: Frames, scheduled: list[Scheduled], step_ns: int
    ) -> None:
        scheduler = self._scheduler
        stats = StepStats(
            step=self._steps,
            num_tokens=sum(share.num_rows for share in scheduled),
            num_seqs=len(scheduled),
            step_ns=step_ns,
            running=scheduler.num_running,
            waiting=scheduler.num_waiting,
            waiting_tokens=scheduler.num_waiting_tokens,
            blocks_used=scheduler.pool.num_used,
            blocks_total=scheduler.pool.num_blocks,
            preemptions=scheduler.preemptions,
        )
        self._send(StepReport(tuple(deltas), stats), frames)
