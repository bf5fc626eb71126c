"""What rank 0 tells the others to do, as numbers: no objects are pickled."""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from headstream.model.batch import PackedBatch


class Command(IntEnum):
    """The kinds of messages; see :class:`headstream.model.parallel.lead.LeadRunner`."""

    RUN = 0  # the layers of a batch
    UNEMBED = 1  # rows that follow
    LOOK_UP = 2  # rows of E
    BEAT = 3  # nothing, but answer
    STOP = 4


def batch_to_parts(batch: PackedBatch) -> list[Tensor]:
    """What the layers need of a batch, int64 [n] each; it neither shows nor changes sites."""
    sizes = torch.tensor([len(batch.context_lens), batch.max_seqlen_q, batch.max_seqlen_k])
    tensors = [
        batch.input_ids,
        batch.positions,
        batch.cu_seqlens_q,
        batch.context_lens,
        batch.prompt_rows,
        batch.block_table,
        batch.slot_mapping,
        batch.block_copies,
    ]
    return [sizes, *(tensor.long().flatten() for tensor in tensors)]


def batch_from_parts(parts: list[Tensor]) -> PackedBatch:
    """The batch again, of which nothing is wanted but that its keys and values are written."""
    sizes, ids, positions, cu_seqlens, context_lens, prompt_rows, table, slots, copies = parts
    num_seqs, max_seqlen_q, max_seqlen_k = sizes.tolist()
    return PackedBatch(
        input_ids=ids,
        positions=positions,
        cu_seqlens_q=cu_seqlens.int(),
        context_lens=context_lens.int(),
        prompt_rows=prompt_rows.int(),
        block_table=table.int().view(num_seqs, -1),
        slot_mapping=slots,
        max_seqlen_q=max_seqlen_q,
        max_seqlen_k=max_seqlen_k,
        logits_indices=torch.empty(0, dtype=torch.int64),
        block_copies=copies.view(2, -1),
    )
