"""The engine core: takes messages, runs steps, reports. Knows no text, no sockets, no gRPC."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

from headstream.model.batch import StepOutput
from headstream.model.runner import Runner
from headstream.model.sampler import NO_TOKEN
from headstream.server.engine.charging import charged
from headstream.server.engine.frame import Frame
from headstream.server.engine.grammars import Grammars, OffGrammarError
from headstream.server.engine.lens_reader import LensReader
from headstream.server.engine.looking import prepare, see_all
from headstream.server.engine.messages import (
    Abort,
    Append,
    Delta,
    FinishReason,
    Flow,
    Fork,
    FromEngine,
    LogitRow,
    Lookup,
    LookupReply,
    Rollback,
    Rows,
    Scores,
    StepReport,
    StepStats,
    Submit,
    ToEngine,
    Token,
    Vocabulary,
)
from headstream.server.engine.packing import Packed, pack
from headstream.server.engine.plan import Schedule
from headstream.server.engine.priority import Priority
from headstream.server.engine.report import Frames
from headstream.server.engine.scheduler import Scheduler
from headstream.server.engine.sequence import Sequence

Send = Callable[[FromEngine, Frames], None]


class EngineCore:
    """``step()`` is the architecture: schedule, run, update, report."""

    def __init__(self, runner: Runner, scheduler: Scheduler, send: Send) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._send = send
        self._steps = 0
        self.is_blocked = False  # the last step found nothing that may run: readers are awaited
        self._refused: list[Delta] = []
        self._grammars = Grammars()
        self._compiling: dict[int, Sequence] = {}
        self._lenses = LensReader(runner, scheduler)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return self._scheduler.has_work or bool(self._refused) or bool(self._grammars)

    def step(self) -> None:
        """Compute the next rows of every scheduled sequence and report what came of it."""
        begin = time.monotonic_ns()
        frames = Frames()
        self._admit_compiled()
        deltas, self._refused = self._refused, []
        schedule = self._scheduler.schedule()
        if schedule:
            try:
                scheduler = self._scheduler
                packed = pack(schedule, scheduler.pool.block_size, scheduler.block_copies)
                output = self._runner.run(packed.batch)
                deltas += self._update(schedule, packed, output, frames, begin)
            except Exception as error:  # one step's fault ends its own sequences, not the engine
                deltas += self._fail(schedule, error)
            self._steps += 1
        else:
            self._runner.beat()
        deltas += self._lenses.read(frames, beside=bool(schedule))
        self.is_blocked = not schedule and not deltas
        deltas = [charged(delta, frames, self._scheduler) for delta in deltas]
        self._report(deltas, frames, schedule, time.monotonic_ns() - begin)

    def heartbeat(self) -> None:
        """Report that the engine is alive and idle."""
        self._runner.beat()
        self._report([], Frames(), {}, 0)

    def handle(self, message: ToEngine) -> None:
        """Take one message from the front."""
        match message:
            case Submit():
                self._submit(message)
            case Abort(id=sequence_id):
                self._grammars.drop(sequence_id)
                self._compiling.pop(sequence_id, None)
                if (sequence := self._scheduler.get(sequence_id)) is not None:
                    self._scheduler.remove(sequence)
                    self._lenses.drop(sequence)
            case Flow(id=sequence_id, credit_bytes=credit_bytes):
                if (sequence := self._scheduler.get(sequence_id)) is not None:
                    self._scheduler.give_credit(sequence, credit_bytes)
            case Append(id=branch_id) | Rollback(id=branch_id) | Fork(id=branch_id):
                self._move(message, self._scheduler.get(branch_id))
            case Vocabulary():
                self._grammars.learn(message)
            case Lookup():
                self._lookup(message)
            case _:
                raise AssertionError(f"not a message for the core: {message}")

    def _submit(self, spec: Submit) -> None:
        model = self._runner.model
        sequence = Sequence(spec, time.monotonic_ns(), is_whole=not model.config.causal)
        try:
            prepare(sequence, model.config)
        except ValueError as error:
            self._refuse(spec.id, str(error))
            return
        if sequence.wants_logits and model.unembed is None:
            self._refuse(spec.id, "the model has no unembedding, so it gives no logits")
        elif not spec.token_ids or not self._scheduler.fits(sequence):
            self._refuse(
                spec.id,
                f"sequence of {sequence.max_tokens} tokens, with {len(spec.siblings)} siblings, "
                "does not fit the KV memory or a step",
            )
        elif spec.grammar:
            self._compiling[spec.id] = sequence
            self._grammars.compile(spec.id, spec.grammar, spec.output_ids)
        else:
            self._scheduler.add(sequence)

    def _refuse(self, sequence_id: int, error: str) -> None:
        self._refused.append(Delta(sequence_id, finish="error", error=error))

    def _move(self, move: Append | Rollback | Fork, branch: Sequence | None) -> None:
        """A move of a session; a branch that a failed step has ended has been told already."""
        match move:
            case Fork(new_id=new_id) if branch is None:
                self._refuse(new_id, "its origin is gone")
            case _ if branch is None:
                pass
            case Append(token_ids=token_ids):
                self._scheduler.branches.append(branch, token_ids)
            case Rollback(length=length, row=row):
                self._scheduler.branches.rollback(branch, length, row=row)
            case Fork(new_id=new_id):
                self._scheduler.fork(branch, new_id)

    def _admit_compiled(self) -> None:
        """Schedule the sequences whose grammars are compiled; with nothing else to do, wait."""
        idle = not self._scheduler.has_work and not self._refused
        for sequence_id, outcome in self._grammars.take_ready(block=idle):
            sequence = self._compiling.pop(sequence_id)
            if isinstance(outcome, Exception):
                off = isinstance(outcome, OffGrammarError)
                finish: FinishReason = "off_grammar" if off else "refused"
                self._refused.append(Delta(sequence_id, finish=finish, error=repr(outcome)))
            else:
                sequence.matcher = outcome
                for sibling in sequence.siblings:
                    sibling.matcher = outcome.copy()
                self._scheduler.add(sequence)

    def _lookup(self, message: Lookup) -> None:
        frames = Frames()
        try:
            rows = frames.add(self._runner.lookup(message.token_ids), message.dtype)
            self._send(LookupReply(message.id, rows), frames)
        except Exception as error:  # answered, never raised: the loop must go on
            self._send(LookupReply(message.id, None, repr(error)), Frames())

    def _update(
        self, schedule: Schedule, packed: Packed, output: StepOutput, frames: Frames, begin: int
    ) -> list[Delta]:
        """Move counters, take drawn tokens, free what is done; the news of each sequence."""
        rows, vectors = self._collect_taps(packed, output, frames)
        seen, faults = see_all(packed.sights, output.sites, frames)
        self._scheduler.advance(schedule)
        tokens: dict[Sequence, Token] = {}
        logits: dict[Sequence, list[LogitRow]] = defaultdict(list)
        for sequence, row in zip(packed.token_sequences, output.rows, strict=True):
            if sequence.spec.branch:
                logits[sequence].append(frames.logit_row(sequence.num_answered, row))
                sequence.num_answered += 1
                continue
            if row.token_id == NO_TOKEN:
                sequence.finish = "dead_end"
                continue
            tokens[sequence] = frames.token(len(sequence.output_ids), row)
            sequence.append(row.token_id)
        scores: dict[Sequence, Scores] = {
            part.sequence: frames.scores(part.start, result)
            for part, result in zip(packed.score_ranges, output.scores, strict=True)
        }
        news = tokens.keys() | rows.keys() | logits.keys() | scores.keys() | seen.keys()
        now = time.monotonic_ns()
        deltas: list[Delta] = []
        for sequence in schedule:
            sequence.num_reported = max(sequence.num_reported, sequence.num_computed)
            first = sequence.first_step_ns == 0
            if first:
                sequence.first_step_ns = begin
            fault = faults.get(sequence)
            done = sequence.is_done or fault is not None
            if done:
                self._scheduler.remove(sequence)
            token = tokens.get(sequence)
            if first or done or sequence in news:
                told = first or done or sequence.begins_output
                deltas.append(
                    Delta(
                        id=sequence.spec.id,
                        token=token,
                        rows=rows.get(sequence, ()),
                        vectors=vectors.get(sequence),
                        scores=scores.get(sequence),
                        finish=_finish(sequence, fault) if done else None,
                        error=fault or "",
                        queue_ns=sequence.first_step_ns - sequence.arrival_ns,
                        compute_ns=now - sequence.first_step_ns,
                        logit_rows=tuple(logits.get(sequence, ())),
                        seen=seen.get(sequence),
                        milestone=sequence.milestone if told else None,
                    )
                )
        return deltas

    def _collect_taps(
        self, packed: Packed, output: StepOutput, frames: Frames
    ) -> tuple[dict[Sequence, tuple[Rows, ...]], dict[Sequence, Frame]]:
        """Tapped rows by sequence, and pooled vectors of the prompts that are now complete."""
        rows: dict[Sequence, tuple[Rows, ...]] = {}
        vectors: dict[Sequence, Frame] = {}
        for part in packed.tap_ranges:
            sequence = part.sequence
            values = output.taps[part.layer][part.offset : part.offset + part.count]
            if part.use == "read":
                assert sequence.lens is not None
                sequence.lens.put(part.layer, part.start, values)
                self._lenses.add(sequence)
                continue
            if part.use == "sent":
                frame = frames.add(values, sequence.spec.outputs.rows.dtype)
                rows[sequence] = (*rows.get(sequence, ()), Rows(part.layer, part.start, frame))
                continue
            sequence.pool_rows.append(values)
            if part.start + part.count == sequence.num_prompt:
                spec, first = sequence.spec.outputs.pool, sequence.first_pooled
                assert spec is not None
                vectors[sequence] = frames.pooled(spec, first, sequence.pool_rows)
        return rows, vectors

    def _fail(self, schedule: Schedule, error: Exception) -> list[Delta]:
        """End every sequence of a step that failed."""
        for sequence in schedule:
            self._scheduler.remove(sequence)
        return [Delta(sequence.spec.id, finish="error", error=repr(error)) for sequence in schedule]

    def _report(
        self, deltas: list[Delta], frames: Frames, schedule: Schedule, step_ns: int
    ) -> None:
        scheduler = self._scheduler
        stats = StepStats(
            step=self._steps,
            num_tokens=sum(schedule.values()),
            num_seqs=len(schedule),
            step_ns=step_ns,
            running=scheduler.num_running,
            waiting=scheduler.num_waiting,
            waiting_tokens=scheduler.num_waiting_tokens,
            blocks_used=scheduler.num_blocks_used,
            blocks_total=scheduler.pool.num_blocks,
            preemptions=scheduler.preemptions,
            blocks_cached=scheduler.cache.num_idle,
            lookup_tokens=scheduler.lookup_tokens,
            hit_tokens=scheduler.hit_tokens,
            waiting_first=tuple(map(scheduler.num_waiting_of, Priority)),
            blocked=not schedule,
        )
        self._send(StepReport(tuple(deltas), stats), frames)


def _finish(sequence: Sequence, fault: str | None) -> FinishReason:
    """How a sequence that is done has ended."""
    return "error" if fault is not None else sequence.finish or "length"
