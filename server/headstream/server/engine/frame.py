"""A tensor on its way from the engine to the front."""

from __future__ import annotations

import msgspec

from headstream.model.outputs import WireDtype


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """A tensor whose bytes are the ``index``-th raw frame behind the message."""

    index: int
    dtype: WireDtype
    shape: tuple[int, ...]
