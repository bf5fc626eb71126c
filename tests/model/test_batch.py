"""The packed batch moves to its device whole."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from headstream.model.batch import PackedBatch
from headstream.model.edits import RowEdit

META = torch.device("meta")  # any device but the CPU will do, and this one is everywhere


def make_batch() -> PackedBatch:
    one = torch.zeros(1, dtype=torch.int64)
    return PackedBatch(
        input_ids=one,
        positions=one,
        cu_seqlens_q=torch.tensor([0, 1], dtype=torch.int32),
        context_lens=one.int(),
        prompt_rows=one.int(),
        block_table=one.int()[None],
        slot_mapping=one,
        max_seqlen_q=1,
        max_seqlen_k=1,
        logits_indices=one,
        taps={0: one, 3: one},
        sites={("z", (1, 2)): one},
        edits={("z", 2): (RowEdit(one, "add", 1.0, heads=one, values=one.float()),)},
    )


def test_every_tensor_moves() -> None:
    batch = make_batch()
    moved = batch.to(META)
    for name in (f.name for f in fields(batch)):
        value = getattr(moved, name)
        if isinstance(value, Tensor):
            assert value.device == META, name
        else:
            others = {"max_seqlen_q", "max_seqlen_k", "taps", "heads", "scores", "sites", "edits"}
            assert name in others
    assert moved.sites["z", (1, 2)].device == META
    [edit] = moved.edits["z", 2]
    assert edit.heads is not None
    assert edit.values is not None
    assert {edit.rows.device, edit.heads.device, edit.values.device} == {META}
    assert {layer: rows.device for layer, rows in moved.taps.items()} == {0: META, 3: META}


def test_on_the_cpu_nothing_is_copied() -> None:
    batch = make_batch()
    assert batch.to(torch.device("cpu")) is batch
