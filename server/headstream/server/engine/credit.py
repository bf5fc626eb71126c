"""How far a sequence may be ahead of its reader.

The engine counts what it has told of a sequence, and passes the sequence over once that reaches the
credit: nothing is computed that would only wait. The front extends the credit behind what has been
written to the caller, so the two always count the same bytes, and no news between them is unseen.
"""

from __future__ import annotations

from collections.abc import Sequence

from headstream.server.engine.frame import Frame
from headstream.server.engine.messages import Delta

CREDIT_BYTES = 1 << 18
"""What a sequence may have told that nobody has read. News larger than that come one by one until
the reader has taken some, and then a few are made while one is written."""

ID_BYTES = 4  # that a token id takes, at most, on the wire


def num_bytes(delta: Delta, frames: Sequence[bytes | memoryview]) -> int:
    """Bytes of the tensors of some news, and of what goes with each of their values."""

    def size(frame: Frame | None) -> int:
        return 0 if frame is None else len(frames[frame.index])

    total = size(delta.vectors)
    if delta.token is not None:
        total += size(delta.token.logits) + ID_BYTES * len(delta.token.logits_ids)
    total += sum(size(rows.values) for rows in delta.rows)
    total += sum(size(row.values) + ID_BYTES * len(row.token_ids) for row in delta.logit_rows)
    if (scores := delta.scores) is not None:
        total += size(scores.values) + size(scores.logits) + len(scores.logits_ids)
    if (seen := delta.seen) is not None:
        total += sum(size(site.values) for site in seen.sites)
        total += sum(size(part.weights) + len(part.keys) for part in seen.patterns)
        total += sum(size(rows.logits) + len(rows.logits_ids) for rows in seen.lens)
    return total
