"""Owns the device, the weights and the block pool's memory; runs one packed batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headstream.model.attention.base import AttentionBackend
from headstream.model.attention.kernel import KernelAttention
from headstream.model.attention.sdpa import SdpaAttention
from headstream.model.attention.whole import WholeAttention
from headstream.model.batch import FINAL, PackedBatch, Places, StepOutput
from headstream.model.decode_graphs import DecodeGraphs
from headstream.model.errors import UnsupportedModelError
from headstream.model.families.base import Model
from headstream.model.heads import Rows, choose_tokens, finish_rows, read_rows
from headstream.model.kernels import Kernels
from headstream.model.kv_cache import KVCache
from headstream.model.outputs import LogitsSpec
from headstream.model.probe import Probe
from headstream.model.scoring import finish_scores


class Runner:
    """``run(PackedBatch) -> StepOutput``: X[N, d] through the layers, then the heads."""

    def __init__(
        self, model: Model, cache: KVCache, kernels: Kernels, *, graphs: bool = True
    ) -> None:
        """``graphs``: steps of single rows may be CUDA graphs."""
        attention = _attention(model, cache, kernels)
        self.model = model
        self.cache = cache
        self._attention = attention
        self._kernels = kernels
        self._graphs: DecodeGraphs | None = None
        if graphs and cache.device.type == "cuda" and model.unembed is not None:
            self._graphs = DecodeGraphs(model, model.unembed, cache, attention)

    @property
    def backend(self) -> str:
        """The kernels in use, for the fingerprint: others may round otherwise.

        Where torch computes on the CPU the number of threads is part of it, since it cuts sums by
        it; the native kernels do not.
        """
        device, attention, kernels = (
            self.cache.device.type,
            self._attention.name,
            self._kernels.name,
        )
        name = f"{device}-{attention}-{kernels}"
        if device == "cpu" and (attention, kernels) != ("native", "native"):
            return f"{name}-threads{torch.get_num_threads()}"
        return name

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Do ahead of the first request what would delay it."""
        if self._graphs is not None:
            self._graphs.warm_up()

    @torch.inference_mode()
    def run(self, batch: PackedBatch) -> StepOutput:
        """Run all layers over the batch's rows and unembed the rows that ask for it.

        The batch lies on the CPU; it is moved to the cache's device.
        """
        if batch.block_copies.numel():
            self.cache.copy_blocks(*batch.block_copies.to(self.cache.device))
        if self._graphs is not None and self._graphs.take(batch):
            return self._replay(self._graphs, batch)
        batch = batch.to(self.cache.device)
        probe = Probe(
            {layer: rows for layer, rows in batch.taps.items() if layer != FINAL},
            batch.sites,
            batch.edits,
        )
        resid = self.model.forward(
            batch.input_ids, batch.positions, self._attention.bind(batch), probe
        )  # [N, d]
        if (final_rows := batch.taps.get(FINAL)) is not None:
            probe.rows[FINAL] = self.model.final_norm(resid.index_select(0, final_rows))
        sites = probe.values
        last: Places = ("ln_final", (self.model.config.n_layers,))
        if (final_rows := batch.sites.get(last)) is not None:
            normed = self.model.final_norm(resid.index_select(0, final_rows))  # [rows, d]
            sites[last] = normed.unsqueeze(0)
        wanted = resid.index_select(0, batch.logits_indices)  # [R, d]
        drawn, scored = wanted[: len(batch.heads)], wanted[len(batch.heads) :]
        return StepOutput(
            rows=tuple(finish_rows(self.model, drawn, batch.heads)),
            taps={layer: kept.cpu() for layer, kept in probe.rows.items()},
            scores=tuple(finish_scores(self.model, scored, batch.scores)),
            sites=sites,
        )

    def _replay(self, graphs: DecodeGraphs, batch: PackedBatch) -> StepOutput:
        """The same for a step of one row each of many sequences."""
        done = graphs.run(batch)
        rows = Rows.pick(done.found, batch.logits_indices, batch.heads)
        return StepOutput(
            rows=tuple(choose_tokens(rows, batch.heads)),
            taps={layer: done.taps[layer].cpu()[places] for layer, places in batch.taps.items()},
        )

    @torch.inference_mode()
    def read(self, resid: Tensor, spec: LogitsSpec) -> tuple[Tensor, Tensor | None]:
        """The logits asked for of rows of the stream [R, d], at most ``heads.SLICE``, on the CPU.

        As :meth:`headstream.model.heads.Rows.select` gives them.
        """
        return read_rows(self.model, resid.to(self.cache.device), spec)

    @torch.inference_mode()
    def lookup(self, token_ids: Sequence[int]) -> Tensor:
        """Rows of E for ``token_ids``: [n, d] on CPU."""
        ids = torch.tensor(token_ids, device=self.cache.device)
        return self.model.static_embeddings(ids).cpu()

    def beat(self) -> None:
        """Say that there is nothing to do, to whoever shares the model."""

    def close(self) -> None:
        """Nothing more will be asked."""


def _attention(model: Model, cache: KVCache, kernels: Kernels) -> AttentionBackend:
    specs = model.config.attention
    if all(kernels.attends(spec, cache.block_size) for spec in specs):
        return KernelAttention(specs, cache, kernels)
    if cache.device.type == "cuda":
        raise UnsupportedModelError("the attention heads of this model do not fit the GPU kernel")
    return SdpaAttention(specs, cache) if model.config.causal else WholeAttention(specs)
