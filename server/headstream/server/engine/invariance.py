"""A check at start: does the loaded model give rows the same bits alone and packed?"""

from __future__ import annotations

import torch
from torch import Tensor

from headstream.model.batch import FINAL
from headstream.model.outputs import LogitsSpec, Outputs, RowsSpec
from headstream.model.runner import Runner
from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.messages import Submit
from headstream.server.engine.packing import pack
from headstream.server.engine.sequence import Sequence

_LENGTHS = (13, 6)
_OUTPUTS = Outputs(
    logits=LogitsSpec("full"),
    rows=RowsSpec(prompt_layers=(FINAL,), generated_layers=(FINAL,)),
)


def is_batch_invariant(runner: Runner, pool: BlockPool) -> bool:
    """Read two short texts in one step, and each alone in two: its prompt, then the row behind it.

    A step of a single row is where kernels most often turn to another order of sums. The rows of an
    encoder need all others, so it reads each text in one step.
    """
    sizes = runner.model.config
    texts = [[(7 * i + length) % sizes.d_vocab for i in range(length)] for length in _LENGTHS]
    packed = _read(runner, pool, texts, at_once=True)
    alone = [_read(runner, pool, [text], at_once=not sizes.causal) for text in texts]
    rows = torch.cat([rows for rows, _ in alone])
    logits = [row for _, logits in alone for row in logits]
    return torch.equal(packed[0], rows) and all(map(torch.equal, packed[1], logits))


def _read(
    runner: Runner, pool: BlockPool, texts: list[list[int]], *, at_once: bool
) -> tuple[Tensor, list[Tensor]]:
    """Rows after the final norm [N, d], and the logits [V] behind each text if there are any."""
    max_new_tokens = 2 if runner.model.config.unembeds else 0
    sequences = [
        Sequence(
            Submit(0, tuple(text[:-1]), max_new_tokens, outputs=_OUTPUTS),
            arrival_ns=0,
            output_ids=text[-1:],
            block_ids=pool.allocate(pool.blocks_for(len(text))),
        )
        for text in texts
    ]
    rows: list[Tensor] = []
    logits: list[Tensor] = []
    while schedule := {
        each: each.num_pending if at_once or each.num_computed else each.num_prompt
        for each in sequences
        if each.num_pending
    }:
        output = runner.run(pack(schedule, pool.block_size).batch)
        rows.append(output.taps[FINAL])
        logits += [row.values for row in output.rows if row.values is not None]
        for sequence, count in schedule.items():
            sequence.num_computed += count
    for sequence in sequences:
        pool.release(sequence.block_ids)
    return torch.cat(rows), logits
