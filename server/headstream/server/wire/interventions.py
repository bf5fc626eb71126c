"""Changes to the model for one request: checked, and as the engine takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headstream.model.site_shapes import SiteShape
from headstream.model.sites import Edit, SiteSpec, TraceSpec
from headstream.server.engine.messages import Ready
from headstream.server.errors import InvalidRequest, NotServed
from headstream.server.limits import Limits
from headstream.server.wire.fields import check_count, check_float
from headstream.server.wire.inputs import ParsedInput, check_length, parse_input
from headstream.server.wire.positions import check_range, fit_range
from headstream.server.wire.sites import find_site, resolve_heads, resolve_layers
from headstream.v1 import types_pb2 as pb

VALUE_BYTES = 4  # float32


@dataclass(frozen=True, slots=True)
class Place:
    """Where a change is made."""

    shape: SiteShape
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    start: int
    end: int | None

    def edit(
        self, kind: Literal["add", "scale", "set"], factor: float = 1.0, values: bytes = b""
    ) -> Edit:
        """The change."""
        return Edit(
            site=self.shape.name,
            kind=kind,
            layers=self.layers,
            heads=self.heads,
            start=self.start,
            end=self.end,
            factor=factor,
            values=values,
        )


@dataclass(frozen=True, slots=True)
class Patch:
    """A change whose values are those that another input gives."""

    field: str
    source: ParsedInput
    place: Place

    def fit(self, num_tokens: int, limits: Limits) -> Place:
        """The place, if the other input with so many tokens has all of its positions."""
        field = f"{self.field}.patch_from"
        check_length(field, num_tokens, limits)
        place = self.place
        start, end = fit_range(
            f"{self.field}.positions",
            place.start,
            place.end,
            num_tokens,
            "the positions of patch_from",
        )
        return Place(place.shape, place.layers, place.heads, start, end)


Change = Edit | Patch


def parse_interventions(
    messages: Sequence[pb.Intervention], ready: Ready, limits: Limits, *, prefix: str = ""
) -> tuple[Change, ...]:
    """The changes in their order. ``prefix``: of the field they are in."""
    field = f"{prefix}interventions"
    if messages and not limits.internals:
        raise NotServed(f"{field}: not served by this server")
    check_count(field, messages, 0, limits.max_interventions)
    changes = tuple(
        _parse_one(f"{field}[{i}]", message, ready, limits) for i, message in enumerate(messages)
    )
    check_bytes(field, [len(each.values) for each in changes if isinstance(each, Edit)], limits)
    return changes


def check_bytes(field: str, num_bytes: Sequence[int], limits: Limits) -> None:
    """Refuse changes that together hold too many values."""
    total, limit = sum(num_bytes), limits.max_intervention_bytes
    if total > limit:
        raise InvalidRequest(field, f"hold {total} bytes of values; the limit is {limit}")


def check_values(field: str, values: NDArray[np.float32], limits: Limits) -> None:
    """Refuse values that are no numbers, or too large."""
    limit = limits.max_intervention_value
    if not np.isfinite(values).all():
        raise InvalidRequest(field, "holds a value that is not a finite number")
    largest = float(np.abs(values).max(initial=0.0))
    if largest > limit:
        raise InvalidRequest(field, f"reaches {largest:g}; the largest absolute value is {limit:g}")


def patch_bytes(place: Place) -> int:
    """Bytes of the values of a patch whose positions are known."""
    assert place.end is not None, "it has been fitted"
    rows = len(place.layers) * (place.end - place.start)
    return rows * max(1, len(place.heads)) * place.shape.width * VALUE_BYTES


def patch_trace(place: Place) -> TraceSpec:
    """What the other input is asked for."""
    site = SiteSpec(place.shape.name, place.layers, place.heads)
    return TraceSpec((site,), place.start, place.end)


def _parse_one(field: str, message: pb.Intervention, ready: Ready, limits: Limits) -> Change:
    place = _parse_place(field, message, ready)
    match message.WhichOneof("action"):
        case "add":
            return _parse_add(f"{field}.add", message.add, place, limits)
        case "scale":
            most = limits.max_intervention_factor
            return place.edit("scale", check_float(f"{field}.scale", message.scale, -most, most))
        case "patch_from":
            source = parse_input(f"{field}.patch_from", message.patch_from, limits)
            return Patch(field, source, place)
        case None:
            raise InvalidRequest(field, "set add, scale or patch_from")


def _parse_place(field: str, message: pb.Intervention, ready: Ready) -> Place:
    shape = find_site(f"{field}.site", message.site, ready)
    if not shape.changeable:
        raise InvalidRequest(f"{field}.site", f"{shape.name} can be read, but not changed")
    if shape.per_layer:
        check_count(f"{field}.layers", message.layers, 1, ready.n_layers)
    end = message.position_end if message.HasField("position_end") else None
    start, end = check_range(f"{field}.positions", message.position_start, end)
    return Place(
        shape=shape,
        layers=resolve_layers(f"{field}.layers", message.layers, shape),
        heads=resolve_heads(f"{field}.heads", message.heads, shape),
        start=start,
        end=end,
    )


def _parse_add(field: str, message: pb.AddVector, place: Place, limits: Limits) -> Edit:
    expected = place.shape.width * VALUE_BYTES
    if len(message.vector) != expected:
        what = "a head of " if place.heads else ""
        raise InvalidRequest(
            f"{field}.vector",
            f"has {len(message.vector)} bytes; {what}{place.shape.name} takes {expected}: "
            f"{place.shape.width} values of float32",
        )
    most = limits.max_intervention_factor
    factor = message.factor if message.HasField("factor") else 1.0
    check_float(f"{field}.factor", factor, -most, most)
    vector = np.frombuffer(message.vector, "<f4")
    with np.errstate(over="ignore"):
        check_values(f"{field}.vector", vector, limits)
        check_values(f"{field}.vector", vector * np.float32(factor), limits)
    return place.edit("add", factor, message.vector)


def shift_edits(edits: Sequence[Edit], begin: int) -> tuple[Edit, ...]:
    """The changes to a text as they are to the part of it that begins there."""
    shifted: list[Edit] = []
    for edit in edits:
        if edit.end is None or edit.end > begin:
            start = max(0, edit.start - begin)
            end = None if edit.end is None else edit.end - begin
            cut = edit.with_values(_cut_values(edit, begin)) if edit.kind == "set" else edit
            shifted.append(replace(cut, start=start, end=end))
    return tuple(shifted)


def _cut_values(edit: Edit, begin: int) -> bytes:
    """The patched rows from a position on."""
    assert edit.end is not None, "a patch has an end"
    values = np.frombuffer(edit.values, "<f4").reshape(len(edit.layers), edit.end - edit.start, -1)
    return values[:, max(0, begin - edit.start) :].tobytes()
