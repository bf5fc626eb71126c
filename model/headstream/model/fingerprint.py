"""Which numbers a model gives: a digest of its weights, and a check of batch invariance."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from headstream.model.batch import FINAL, PackedBatch
from headstream.model.loading.header import read_header
from headstream.model.loading.manifest import sha256_of
from headstream.model.loading.progress import Progress
from headstream.model.runner import Runner

_DIGESTS = "weights-sha256.json"


def weights_sha256(directory: Path, cache_dir: Path, progress: Progress) -> str:
    """SHA-256 over the checkpoint's weight files, in the order of their names.

    Digests are remembered under ``cache_dir`` by path, size and time of change, since reading
    every byte again would double the time of a start.
    """
    cache = cache_dir / _DIGESTS
    known: dict[str, str] = json.loads(cache.read_text()) if cache.is_file() else {}
    total = hashlib.sha256()
    files = sorted(directory.glob("*.safetensors"))
    for done, path in enumerate(files):
        stat = path.stat()
        key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
        if key not in known:
            progress("hashing", done, len(files))
            known[key] = sha256_of(path)
        total.update(known[key].encode())
    cache_dir.mkdir(parents=True, exist_ok=True)
    scratch = cache.with_suffix(".tmp")
    scratch.write_text(json.dumps(known))
    scratch.replace(cache)
    return total.hexdigest()


def count_parameters(directory: Path) -> int:
    """Elements of all tensors in the checkpoint."""
    return sum(
        torch.Size(entry.shape).numel()
        for path in directory.glob("*.safetensors")
        for entry in read_header(path).values()
    )


def is_batch_invariant(runner: Runner) -> bool:
    """Whether rows come out with the same bits alone and packed, tried on the loaded model.

    Two short sequences are read packed and each alone, prompt rows and one row behind the prompt.
    Uses the first blocks of the pool, so call it before anything else does.
    """
    vocabulary = runner.model.config.d_vocab
    first = [(7 * i + 3) % vocabulary for i in range(13)]
    second = [(11 * i + 5) % vocabulary for i in range(6)]
    packed = _final_rows(runner, [first, second])
    alone = torch.cat([_final_rows(runner, [first]), _final_rows(runner, [second])])
    return torch.equal(packed, alone)


def _final_rows(runner: Runner, texts: list[list[int]]) -> torch.Tensor:
    """Rows after the final norm [N, d] of sequences whose last token lies behind the prompt."""
    block_size = runner.cache.block_size
    per_text = -(-max(map(len, texts)) // block_size)
    tables = [list(range(i * per_text, (i + 1) * per_text)) for i in range(len(texts))]
    bounds = [0]
    for text in texts:
        bounds.append(bounds[-1] + len(text))
    lengths = [len(text) for text in texts]
    slots = [
        table[0] * block_size + i
        for table, n in zip(tables, lengths, strict=True)
        for i in range(n)
    ]
    batch = PackedBatch(
        input_ids=torch.tensor([token for text in texts for token in text]),
        positions=torch.tensor([i for n in lengths for i in range(n)]),
        cu_seqlens_q=torch.tensor(bounds, dtype=torch.int32),
        context_lens=torch.tensor(lengths, dtype=torch.int32),
        prompt_rows=torch.tensor([n - 1 for n in lengths], dtype=torch.int32),
        block_table=torch.tensor(tables, dtype=torch.int32),
        slot_mapping=torch.tensor(slots),
        max_seqlen_q=max(lengths),
        max_seqlen_k=max(lengths),
        logits_indices=torch.empty(0, dtype=torch.int64),
        taps={FINAL: torch.arange(bounds[-1])},
    )
    return runner.run(batch).taps[FINAL]
