"""Tensors of torch, for those who ask for them; nothing else of the client knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstream.client._results import Array


def is_tensor(value: Any) -> bool:
    """Whether it is a tensor, or a list that begins with one."""
    return hasattr(value, "detach") or (len(value) > 0 and hasattr(value[0], "detach"))


def to_tensor(array: Array) -> Any:
    """A tensor of the same shape and type, without a copy.

    Raises:
        ImportError: torch is not installed.
    """
    import torch  # noqa: PLC0415 - the client's own install has none

    return torch.from_numpy(array)
