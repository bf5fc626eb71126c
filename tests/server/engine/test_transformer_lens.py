"""Sites against TransformerLens 4 under its own names. Passed last with 4.3.0, on 2026-11-27.

It is not among the requirements, since it brings wandb and more: this runs where it is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from contract_requests import text
from engine_trace import Trace
from every_site import LAYERS, every_site
from headstream.model.sites import SiteName, TraceSpec
from headstream.server.engine.look import Look

_IN_A_LAYER: dict[SiteName, str] = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "z": "attn.hook_z",
    "attn_scores": "attn.hook_attn_scores",
    "pattern": "attn.hook_pattern",
    "attn_out": "hook_attn_out",
    "mlp_post": "mlp.hook_post",
    "mlp_out": "hook_mlp_out",
}
LENGTH = 30


def test_gpt2(gentle: dict[str, Path], cache_dir: Path) -> None:
    bridges: Any = pytest.importorskip("transformer_lens.model_bridge")
    auto_model: Any = transformers.AutoModelForCausalLM
    directory = gentle["gpt2"]
    theirs = bridges.TransformerBridge.boot_transformers(
        str(directory), hf_model=auto_model.from_pretrained(directory, attn_implementation="eager")
    )
    ids = text(5, LENGTH)
    with torch.inference_mode():
        _, cache = theirs.run_with_cache(torch.tensor([ids]))
    trace = Trace(gentle["gpt2"], cache_dir)
    traced = trace.submit(ids, look=Look(TraceSpec(every_site(trace))))
    trace.run()
    names: dict[tuple[SiteName, int], str] = {
        (site, layer): f"blocks.{layer - 1}.{name}"
        for site, name in _IN_A_LAYER.items()
        for layer in LAYERS
    }
    names |= {
        ("embed", 0): "embed.hook_out",
        ("pos_embed", 0): "pos_embed.hook_out",
        ("ln_final", 3): "ln_final.hook_out",
    }
    assert {(site, layer) for site, layer, _ in trace.news[traced].sites} == names.keys()
    for (site, layer), name in names.items():
        rows = [trace.news[traced].sites[site, layer, i] for i in range(LENGTH)]
        expected = cache[name][0].cpu().numpy()  # [n, ...]; of patterns [H, n, K]
        if site in {"pattern", "attn_scores"}:
            expected = expected.swapaxes(0, 1)
        if site == "attn_scores":  # theirs are a large negative number where nothing is seen
            expected = np.where(expected < -1e9, -np.inf, expected)
        np.testing.assert_allclose(np.stack(rows), expected, atol=1e-5, rtol=1e-5, err_msg=name)
