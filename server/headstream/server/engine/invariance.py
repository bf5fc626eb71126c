"""A check at start: does the loaded model give rows the same bits alone and packed?"""

from __future__ import annotations

import torch
from torch import Tensor

from headstream.model.batch import FINAL
from headstream.model.outputs import Outputs, RowsSpec
from headstream.model.runner import Runner
from headstream.server.engine.block_pool import BlockPool
from headstream.server.engine.messages import Submit
from headstream.server.engine.packing import pack
from headstream.server.engine.sequence import Sequence

_LENGTHS = (13, 6)
_OUTPUTS = Outputs(rows=RowsSpec(prompt_layers=(FINAL,), generated_layers=(FINAL,)))


def is_batch_invariant(runner: Runner, pool: BlockPool) -> bool:
    """Read two short texts packed and each alone: prompt rows, and one row behind the prompt."""
    vocabulary = runner.model.config.d_vocab
    texts = [[(7 * i + length) % vocabulary for i in range(length)] for length in _LENGTHS]
    packed = _final_rows(runner, pool, texts)
    alone = torch.cat([_final_rows(runner, pool, [text]) for text in texts])
    return torch.equal(packed, alone)


def _final_rows(runner: Runner, pool: BlockPool, texts: list[list[int]]) -> Tensor:
    """Rows after the final norm [N, d]."""
    sequences = [
        Sequence(
            Submit(0, tuple(text[:-1]), outputs=_OUTPUTS),
            arrival_ns=0,
            output_ids=text[-1:],
            block_ids=pool.allocate(pool.blocks_for(len(text))),
        )
        for text in texts
    ]
    schedule = {sequence: sequence.num_tokens for sequence in sequences}
    rows = runner.run(pack(schedule, pool.block_size).batch).taps[FINAL]
    for sequence in sequences:
        pool.release(sequence.block_ids)
    return rows
