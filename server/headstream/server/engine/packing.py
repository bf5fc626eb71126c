"""From the schedule to the packed batch: pure functions, no policy."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch

from headstream.model.batch import PackedBatch, RowRequest
from headstream.server.engine.scheduler import Scheduled
from headstream.server.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class TapRange:
    """Rows [offset, offset + count) of a tapped layer belong to these positions of a sequence."""

    sequence: Sequence
    layer: int
    offset: int
    start: int  # first position
    count: int
    pooled: bool  # for its pooled vectors, else to be sent as they are


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed batch, and whose rows are whose."""

    batch: PackedBatch
    token_sequences: tuple[Sequence, ...]  # [R]
    tap_ranges: tuple[TapRange, ...]


def pack(scheduled: list[Scheduled], block_size: int) -> Packed:
    """Lay the rows of all scheduled sequences end to end."""
    input_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    bounds = [0]
    contexts: list[int] = []
    prompt_rows: list[int] = []
    logits_indices: list[int] = []
    token_sequences: list[Sequence] = []
    taps = _Taps()
    for share in scheduled:
        sequence, start = share.sequence, share.sequence.num_computed
        end = start + share.num_rows
        taps.add(sequence, start, end, first_row=bounds[-1])
        input_ids += sequence.tokens(start, end)
        positions += range(start, end)
        slots += _slots(sequence.block_ids, start, end, block_size)
        bounds.append(bounds[-1] + share.num_rows)
        contexts.append(end)
        prompt_rows.append(max(0, min(end, sequence.num_prompt) - start))
        if sequence.wants_token(share.num_rows):
            logits_indices.append(bounds[-1] - 1)
            token_sequences.append(sequence)
    batch = PackedBatch(
        input_ids=torch.tensor(input_ids),
        positions=torch.tensor(positions),
        cu_seqlens_q=torch.tensor(bounds, dtype=torch.int32),
        context_lens=torch.tensor(contexts, dtype=torch.int32),
        prompt_rows=torch.tensor(prompt_rows, dtype=torch.int32),
        block_table=_block_table([share.sequence.block_ids for share in scheduled]),
        slot_mapping=torch.tensor(slots),
        max_seqlen_q=max(share.num_rows for share in scheduled),
        max_seqlen_k=max(contexts),
        logits_indices=torch.tensor(logits_indices, dtype=torch.int64),
        taps={layer: torch.tensor(rows) for layer, rows in taps.rows.items()},
        heads=tuple(_row_request(sequence) for sequence in token_sequences),
    )
    return Packed(batch, tuple(token_sequences), tuple(taps.ranges))


def _slots(block_ids: list[int], start: int, end: int, block_size: int) -> list[int]:
    """Slots of the positions [start, end)."""
    return [
        block_ids[position // block_size] * block_size + position % block_size
        for position in range(start, end)
    ]


def _block_table(tables: list[list[int]]) -> torch.Tensor:
    """int32 [S, B], padded with block 0, which no context length reaches into."""
    width = max(len(table) for table in tables)
    return torch.tensor([table + [0] * (width - len(table)) for table in tables], dtype=torch.int32)


def _row_request(sequence: Sequence) -> RowRequest:
    spec = sequence.spec
    return RowRequest(
        sampling=spec.sampling,
        logits=spec.outputs.logits,
        logprob=spec.outputs.logprob,
        draw=len(sequence.output_ids),
        prompt_ids=spec.token_ids,
        output_ids=sequence.output_ids,
    )


class _Taps:
    """Collects which rows of which layers are wanted, and whose they are."""

    def __init__(self) -> None:
        self.rows: dict[int, list[int]] = defaultdict(list)
        self.ranges: list[TapRange] = []

    def add(self, sequence: Sequence, start: int, end: int, first_row: int) -> None:
        """Positions [start, end) of ``sequence`` stand in the rows from ``first_row`` on."""
        outputs = sequence.spec.outputs
        fresh = max(start, sequence.num_reported)
        prompt_end = min(end, sequence.num_prompt)
        prompt_layers = [(layer, False) for layer in outputs.rows.prompt_layers]
        if outputs.pool is not None:
            prompt_layers.append((outputs.pool.layer, True))
        generated = [(layer, False) for layer in outputs.rows.generated_layers]
        for layers, begin, stop in (
            (prompt_layers, fresh, prompt_end),
            (generated, max(fresh, sequence.num_prompt), end),
        ):
            if begin >= stop:
                continue
            rows = range(first_row + begin - start, first_row + stop - start)
            for layer, pooled in layers:
                self.ranges.append(
                    TapRange(sequence, layer, len(self.rows[layer]), begin, stop - begin, pooled)
                )
                self.rows[layer] += rows
