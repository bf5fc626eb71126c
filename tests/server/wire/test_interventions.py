"""Changes to the model: what is refused, and how the others are told to the engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from front_values import D_MODEL, make_limits, make_ready
from headstream.model.sites import Edit
from headstream.server.errors import InvalidRequest, NotServed
from headstream.server.wire.interventions import Patch, parse_interventions, shift_edits
from headstream.v1 import types_pb2 as pb

READY = make_ready(Path(), 400)
LIMITS = make_limits(
    max_interventions=3,
    max_intervention_value=50.0,
    max_intervention_factor=4.0,
    max_intervention_bytes=200,
)
ONES = np.ones(D_MODEL, "<f4")


def vector(*values: float) -> pb.AddVector:
    return pb.AddVector(vector=np.array(values, "<f4").tobytes())


def parse(*messages: pb.Intervention) -> tuple[Any, ...]:
    return parse_interventions(messages, READY, LIMITS)


def change(**fields: Any) -> pb.Intervention:
    named: dict[str, Any] = {"site": "resid_post", "layers": [1], "scale": 1.0}
    return pb.Intervention(**(named | fields))


def test_a_vector_is_added_at_sorted_layers() -> None:
    added = pb.AddVector(vector=ONES.tobytes(), factor=-2.5)
    [edit] = parse(change(layers=[2, 1], add=added, position_start=3))
    assert edit == Edit("resid_post", "add", (1, 2), (), 3, None, -2.5, ONES.tobytes())


def test_unnamed_heads_are_all_and_embed_is_in_no_layer() -> None:
    [z, k, embed] = parse(
        change(site="z", scale=0.0),
        change(site="k", heads=[1], scale=2.0, position_end=5),
        change(site="embed", layers=[], scale=2.0),
    )
    assert z == Edit("z", "scale", (1,), (0, 1), 0, None, 0.0)
    assert k == Edit("k", "scale", (1,), (1,), 0, 5, 2.0)
    assert (embed.layers, embed.heads) == ((0,), ())


def test_the_vector_of_a_head_is_as_wide_as_a_head() -> None:
    [edit] = parse(change(site="z", add=vector(1, 2, 3, 4)))
    assert (edit.heads, len(edit.values)) == ((0, 1), 16)


BAD = [
    (change(site="resid"), "site", "'resid' is no site of this model; it has embed, pos_embed"),
    (change(site="pattern"), "site", "pattern can be read, but not changed"),
    (change(site="ln_final", layers=[]), "site", "ln_final can be read, but not changed"),
    (change(layers=[]), "layers", "has 0 entries; allowed are 1 to 2"),
    (change(layers=[0]), "layers[0]", "0 is not in [1, 2]"),
    (change(layers=[1, 3]), "layers[1]", "3 is not in [1, 2]"),
    (change(layers=[1, 1]), "layers", "1 appears twice"),
    (change(site="embed", layers=[1]), "layers", "embed is in no layer; name none"),
    (change(heads=[0]), "heads", "resid_post has no heads"),
    (change(site="z", heads=[0, 2]), "heads[1]", "2 is not in [0, 1]"),
    (change(position_start=4, position_end=4), "positions", "[4, 4) is empty"),
    (change(position_start=4, position_end=2), "positions", "[4, 2) is empty"),
    (pb.Intervention(site="z", layers=[1]), "", "set add, scale or patch_from"),
    (change(scale=4.5), "scale", "4.5 is not in [-4, 4]"),
    (change(scale=float("nan")), "scale", "not a finite number"),
    (change(add=vector(1, 2)), "add.vector", "has 8 bytes; resid_post takes 32: 8 values"),
    (change(site="z", add=vector(1)), "add.vector", "has 4 bytes; a head of z takes 16"),
    (change(add=vector(*[np.inf] * 8)), "add.vector", "holds a value that is not a finite"),
    (change(add=vector(*[np.nan] * 8)), "add.vector", "holds a value that is not a finite"),
    (
        change(add=vector(*[-51.0] * 8)),
        "add.vector",
        "reaches 51; the largest absolute value is 50",
    ),
    (
        change(add=pb.AddVector(vector=(20 * ONES).tobytes(), factor=-3.0)),
        "add.vector",
        "reaches 60; the largest absolute value is 50",
    ),
    (
        change(add=pb.AddVector(vector=ONES.tobytes(), factor=-5.0)),
        "add.factor",
        "-5 is not in [-4, 4]",
    ),
    (change(patch_from=pb.Input()), "patch_from", "set text, token_ids or chat"),
    (
        change(patch_from=pb.Input(token_ids=pb.TokenIds(ids=[400]))),
        "patch_from.token_ids.ids[0]",
        "400 is not in [0, 400)",
    ),
]


@pytest.mark.parametrize(("wrong", "field", "message"), BAD)
def test_errors_name_the_field_and_the_limit(
    wrong: pb.Intervention, field: str, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(change(), wrong)
    assert caught.value.field == ".".join(filter(None, ["interventions[1]", field]))
    assert message in caught.value.description


def test_there_are_only_so_many_and_so_large() -> None:
    with pytest.raises(InvalidRequest, match=r"interventions: has 4 entries; allowed are 0 to 3"):
        parse(*[change()] * 4)
    wide = change(site="mlp_post", add=vector(*[1.0] * 16))
    parse(*[wide] * 3)
    limits = dataclasses.replace(LIMITS, max_intervention_bytes=95)
    with pytest.raises(InvalidRequest, match=r"hold 96 bytes of values; the limit is 95"):
        parse_interventions([change(add=vector(*ONES))] * 3, READY, limits)


def test_a_server_may_serve_none() -> None:
    closed = dataclasses.replace(LIMITS, internals=False, max_interventions=0)
    assert parse_interventions([], READY, closed) == ()
    with pytest.raises(NotServed, match=r"open\.interventions: not served by this server"):
        parse_interventions([change()], READY, closed, prefix="open.")


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (5, None, r"positions: \[5, \) is not in \[0, 5\), the positions of patch_from"),
        (1, 6, r"positions: \[1, 6\) is not in \[0, 5\), the positions of patch_from"),
    ],
)
def test_a_patch_needs_its_positions_in_the_other_input(
    start: int, end: int | None, message: str
) -> None:
    source = pb.Input(token_ids=pb.TokenIds(ids=[7] * 5))
    [patch] = parse(change(patch_from=source, position_start=start, position_end=end))
    assert isinstance(patch, Patch)
    with pytest.raises(InvalidRequest, match=message):
        patch.fit(5, LIMITS)
    assert patch.fit(6, LIMITS).end == 6


def test_a_part_of_a_text_has_the_changes_of_its_positions() -> None:
    values = np.arange(2 * 4 * 3, dtype="<f4").reshape(2, 4, 3)  # two layers, positions 2 to 5
    patched = Edit("v", "set", (1, 2), (0,), 2, 6, values=values.tobytes())
    everywhere = Edit("z", "scale", (1,), (0,), factor=0.0)
    early = Edit("z", "scale", (1,), (0,), 0, 3, factor=0.0)
    late = Edit("z", "scale", (1,), (0,), 7, 9, factor=0.0)
    shifted = shift_edits([patched, everywhere, early, late], 4)
    assert [(edit.start, edit.end) for edit in shifted] == [(0, 2), (0, None), (3, 5)]
    cut = values[:, 2:].tobytes()
    assert shifted[0] == Edit("v", "set", (1, 2), (0,), 0, 2, values=cut), (
        "with a digest of its own"
    )
    assert shift_edits([patched, late], 0) == (patched, late)
    assert shift_edits([patched], 1)[0].values == values.tobytes()
