"""The kernels of a GPU for tests that know of none; without one, Triton interprets them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from headstream.model.kernels import Kernels
from headstream.model.kernels.unembed import LogitRows, Targets, Unembed

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")


def device_of(kernels: Kernels) -> torch.device:
    """Where tensors are that these kernels attend over."""
    return DEVICE if kernels.name == "triton" else torch.device("cpu")


def gpu_kernels() -> Kernels:
    """The kernels, on tensors of ``DEVICE``; skips where Triton is not installed."""
    pytest.importorskip("triton", reason="needs triton")
    from headstream.model.kernels.gpu import GPU_KERNELS

    return GPU_KERNELS


def reached_from_cpu(kernels: Kernels) -> Kernels:
    """The same kernels for tensors on the CPU: moved there and back."""
    if not HAS_GPU:
        return kernels
    return Kernels(
        name=kernels.name,
        linear=lambda weight, bias: _linear(kernels.linear(*_there((weight, bias)))),
        activated=lambda weights, name: _linear(kernels.activated(_weights(weights), name)),
        gated=lambda gate, up, name: _linear(kernels.gated(_weights(gate), _weights(up), name)),
        rms_norm=lambda x, gain: kernels.rms_norm(x.to(DEVICE), _gain(gain)).cpu(),
        add=lambda resid, y, gain: _in_place(
            resid, lambda moved: kernels.add(moved, y.to(DEVICE), _gain(gain))
        ),
        add_norm=lambda resid, y, gain, last: _in_place(
            resid, lambda moved: kernels.add_norm(moved, y.to(DEVICE), _gain(gain), _gain(last))
        ),
        layer_norm=lambda x, affine: kernels.layer_norm(x.to(DEVICE), _affine(affine)).cpu(),
        post_norm=lambda resid, y, affine: _in_place(
            resid, lambda moved: kernels.post_norm(moved, y.to(DEVICE), _affine(affine))
        ),
        turn_heads=lambda spec, qkv, turn, positions: _in_place(
            qkv, lambda moved: kernels.turn_heads(spec, moved, _turn(turn), positions.to(DEVICE))
        ),
        gate=lambda name, x, gated: kernels.gate(name, x.to(DEVICE), gated).cpu(),
        unembed=lambda weight, softcap: _unembed(kernels.unembed(weight.to(DEVICE), softcap)),
        attend=kernels.attend,
        attends=kernels.attends,
    )


def _there(tensors: tuple[Tensor | None, ...]) -> list[Any]:
    return [None if tensor is None else tensor.to(DEVICE) for tensor in tensors]


def _linear(linear: Any) -> Any:
    return lambda x: linear(x.to(DEVICE)).cpu()


def _weights(weights: Any) -> Any:
    return type(weights)(*_there((weights.weight, weights.bias)))


def _gain(gain: Any) -> Any:
    return None if gain is None else type(gain)(gain.values.to(DEVICE), gain.eps)


def _affine(affine: Any) -> Any:
    return type(affine)(*_there((affine.gain, affine.bias)), affine.eps)


def _turn(turn: Any) -> Any:
    rope = turn.rope and type(turn.rope)(turn.rope.cos.to(DEVICE), turn.rope.sin.to(DEVICE))
    return type(turn)(_gain(turn.q_gain), _gain(turn.k_gain), rope)


def _in_place(x: Tensor, change: Any) -> Any:
    moved = x.to(DEVICE)
    result = change(moved)
    x.copy_(moved)
    return None if result is None else result.cpu()


def _unembed(unembed: Unembed) -> Unembed:
    def look_through(x: Any, count: Any, keep: Any, targets: Any = None) -> LogitRows:
        found = unembed(x.to(DEVICE), count, keep, *_there((targets,)))
        chosen = found.targets and Targets(*(column.cpu() for column in found.targets))
        return LogitRows(*(column.cpu() for column in found[:4]), chosen)

    return look_through
