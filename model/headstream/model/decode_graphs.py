"""Decode steps on CUDA as graphs: one launch a step instead of some hundred.

A graph is a step of one row each of ``rows`` sequences, captured once and replayed with other
numbers in the same memory. Sequences that are fewer than its rows leave rows of padding behind:
contexts of no keys, whose slots are negative. Rows have the same bits as in a step without graphs,
since no kernel looks at how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from headstream.model.attention.base import AttentionBackend
from headstream.model.batch import FINAL, LEADING, PackedBatch
from headstream.model.families.base import Model
from headstream.model.kernels.unembed import LogitRows
from headstream.model.kv_cache import KVCache
from headstream.model.layers.unembedding import Unembedding
from headstream.model.probe import Probe

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Rows of the graphs. Each keeps its logits, float32 [rows, V]."""

_FIRST_CONTEXT = 1024  # keys; graphs for longer contexts double it


@dataclass(frozen=True, slots=True, eq=False)
class DecodeRows:
    """What a graph's replay leaves behind, on the device, until the next one."""

    taps: Mapping[int, Tensor]  # layer, FINAL included -> [rows, d]
    found: LogitRows  # of all rows, every one of them kept


@dataclass(frozen=True, slots=True, eq=False)
class _Graph:
    graph: torch.cuda.CUDAGraph
    host: Tensor  # int64 [words], pinned
    there: Tensor  # int64 [words], what its batch looks at
    batch: PackedBatch  # its other tensors must live as long as the graph
    rows: DecodeRows


class DecodeGraphs:
    """Graphs by number of rows and longest context, captured when first needed."""

    def __init__(
        self, model: Model, unembed: Unembedding, cache: KVCache, attention: AttentionBackend
    ) -> None:
        self._model = model
        self._unembed = unembed
        self._cache = cache
        self._attention = attention
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._memory = torch.cuda.graph_pool_handle()

    def take(self, batch: PackedBatch) -> bool:
        """Whether the step is one row of each sequence, and not of too many.

        Nor does anybody look inside, or change what is there: a graph always does the same.
        """
        few = batch.max_seqlen_q == 1 and len(batch.input_ids) <= SIZES[-1]
        return few and not (batch.scores or batch.sites or batch.edits)

    def warm_up(self) -> None:
        """Capture the graphs of short contexts."""
        for size in reversed(SIZES):  # the largest first: the others find its memory
            self._graph(size, _FIRST_CONTEXT)

    def run(self, batch: PackedBatch) -> DecodeRows:
        """Compute the rows of ``batch``, whose tensors lie on the CPU."""
        size = next(size for size in SIZES if size >= len(batch.input_ids))
        context = _FIRST_CONTEXT
        while context < batch.max_seqlen_k:
            context *= 2
        graph = self._graph(size, context)
        used = _fill(graph.host, size, batch)
        graph.there[:used].copy_(graph.host[:used], non_blocking=True)
        graph.graph.replay()
        return graph.rows

    def _graph(self, size: int, context: int) -> _Graph:
        if (size, context) not in self._graphs:
            self._graphs[size, context] = self._capture(size, context)
        return self._graphs[size, context]

    def _capture(self, size: int, context: int) -> _Graph:
        blocks = -(-context // self._cache.block_size)
        words = 3 * size + -(-(size + blocks * size) // 2)
        host = torch.zeros(words, dtype=torch.int64, pin_memory=True)
        host[2 * size : 3 * size] = -1  # slots: all rows are padding
        there = host.to(self._cache.device)
        batch = _batch(there, size, context)
        self._forward(batch)  # compiles kernels, which must not happen during a capture
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            rows = self._forward(batch)
        return _Graph(graph, host, there, batch, rows)

    def _forward(self, batch: PackedBatch) -> DecodeRows:
        model = self._model
        everything = torch.arange(len(batch.input_ids), device=self._cache.device)
        probe = Probe(dict.fromkeys(range(model.config.n_layers + 1), everything))
        attend = self._attention.bind(batch)
        resid = model.forward(batch.input_ids, batch.positions, attend, probe)  # [rows, d]
        final = model.final_norm(resid)
        found = self._unembed.look_through(final, keep=range(len(final)), count=LEADING)
        return DecodeRows({**probe.rows, FINAL: final}, found)


def _batch(memory: Tensor, size: int, context: int) -> PackedBatch:
    """The packed batch that looks at ``memory``: its tensors side by side.

    The block table comes last and by columns, so that what is used of it is one piece.
    """
    ids, positions, slots = memory[: 3 * size].view(3, size)
    rest = memory[3 * size :].view(torch.int32)
    table = rest[size:]
    return PackedBatch(
        input_ids=ids,
        positions=positions,
        cu_seqlens_q=torch.arange(size + 1, dtype=torch.int32, device=memory.device),
        context_lens=rest[:size],
        prompt_rows=torch.zeros(size, dtype=torch.int32, device=memory.device),
        block_table=table[: len(table) // size * size].view(-1, size).T,  # [size, blocks]
        slot_mapping=slots,
        max_seqlen_q=1,
        max_seqlen_k=context,
        logits_indices=torch.arange(size, device=memory.device),
    )


def _fill(memory: Tensor, size: int, batch: PackedBatch) -> int:
    """Write ``batch`` into ``memory`` as :func:`_batch` reads it; the words in use."""
    rows, blocks = batch.block_table.shape
    words, halves = memory.numpy(), memory.numpy().view("int32")[6 * size :]
    words[:rows] = batch.input_ids.numpy()
    words[size : size + rows] = batch.positions.numpy()
    words[2 * size : 2 * size + rows] = batch.slot_mapping.numpy()
    words[2 * size + rows : 3 * size] = -1
    halves[:rows] = batch.context_lens.numpy()
    halves[rows:size] = 0
    table = halves[size : size + blocks * size].reshape(blocks, size)
    table[:, :rows] = batch.block_table.numpy().T
    return 3 * size + -(-(size + blocks * size) // 2)
