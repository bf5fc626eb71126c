"""Products x W^T on a GPU, whose bits do not depend on how many rows there are.

A library picks another kernel, hence another order of the sums, for every number of rows. Here the
shape of W alone decides: where W has so few rows that a program for each tile of them would leave
most of the GPU idle, its depth K is cut into at most ``_CUTS`` parts. Each part is summed by the
matrix unit from its first column to its last, and the parts are added in order: by one program if
there are tiles enough, else side by side, and the program that finishes last adds them. Rows come
in tiles of at least 64, because smaller ones would be given to another matrix instruction. (He et
al. 2025, "Defeating nondeterminism in LLM inference".)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from headstream.model.kernels.gate import activation_number
from headstream.model.kernels.linear import Linear
from headstream.model.layers.linear import LinearWeights

_CUTS = 4
_LEAST_PART = 512  # columns of W that are worth a part
_MANY_ROWS = 4096  # rows of W that are tiles enough without parts
_PROGRAMS = 132  # that a large GPU runs at once


@dataclass(frozen=True, slots=True)
class _Tiles:
    """How a product is cut into programs; the depth's parts are not its to choose."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def count(self, rows: int, columns: int) -> int:
        """Programs of a result [rows, columns]."""
        return -(-rows // self.rows) * -(-columns // self.columns)


_HALF_TILES = (  # from the fastest to the one with most programs
    _Tiles(128, 256, 64, 8, 3),
    _Tiles(128, 128, 64, 8, 4),
    _Tiles(64, 128, 64, 4, 4),
    _Tiles(64, 64, 64, 4, 4),
    _Tiles(64, 32, 64, 4, 6),
)
_FLOAT_TILES = (_Tiles(64, 64, 32, 4, 3), _Tiles(64, 32, 32, 4, 4))


def linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """A ``MakeLinear``."""
    product = Product(weight, bias)
    return lambda x: product(x, x.dtype)


def activated(weights: LinearWeights, activation: str) -> Linear:
    """A ``MakeActivated``."""
    product = Product(weights.weight, weights.bias, activation=activation)
    return lambda x: product(x, x.dtype)


def gated(gate: LinearWeights, up: LinearWeights, activation: str) -> Linear:
    """A ``MakeGated``."""
    both = LinearWeights.fuse(gate, up)
    product = Product(both.weight, both.bias, activation=activation, gated=True)
    return lambda x: product(x, x.dtype)


class Product:
    """x [M, K] -> activation(x W^T + b) [M, out].

    If gated, W is G above U, and it is activation(x G^T) * (x U^T).
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        activation: str = "",
        gated: bool = False,
        softcap: float = 0.0,
    ) -> None:
        self._weight = weight.contiguous()  # [out, K], or [2 out, K] if gated
        self._bias = bias
        self._activation = activation_number(activation) if activation else -1
        self._gated = gated
        self._softcap = softcap
        self._out = weight.shape[0] // 2 if gated else weight.shape[0]
        depth = weight.shape[1]
        cuts = 1 if len(weight) >= _MANY_ROWS else min(_CUTS, -(-depth // _LEAST_PART))
        self._part = -(-depth // (cuts * 64)) * 64
        self._cuts = -(-depth // self._part)
        self._described: dict[_Tiles, TensorDescriptor] = {}
        # Of each tile, how many of its parts are done; zero again when all are.
        self._done = torch.zeros(_PROGRAMS, dtype=torch.int32, device=weight.device)

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """In ``dtype``, rounded once."""
        if x.stride(1) != 1:
            x = x.contiguous()
        rows, depth = x.shape
        y = torch.empty((rows, self._out), dtype=dtype, device=x.device)
        if rows == 0:
            return y
        tiles = self._tiles(rows, x.dtype)
        programs = tiles.count(rows, self._out)
        beside = self._cuts > 1 and programs < _PROGRAMS
        parts = y
        if beside:
            shape = (self._cuts, rows, len(self._weight))
            parts = torch.empty(shape, dtype=torch.float32, device=x.device)
        source, w = x, self._weight
        described = _is_aligned(x) and _is_aligned(w)
        if described:  # tiles are read by the copy engine
            source = TensorDescriptor.from_tensor(x, [tiles.rows, tiles.depth])
            w = self._weight_in(tiles)
        _product[(programs, self._cuts if beside else 1)](
            source, w, self._bias, y, parts, self._done, rows, x.stride(0), self._softcap,
            OUT=self._out, K=depth, PART=self._part, CUTS=self._cuts, BESIDE=beside,
            GATED=self._gated, ACTIVATION=self._activation, SOFTCAP=self._softcap != 0.0,
            DESCRIBED=described,
            ROWS=tiles.rows, COLUMNS=tiles.columns, DEPTH=tiles.depth,
            PRECISION="tf32x3" if x.dtype == torch.float32 else "ieee",
            num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
        return y

    def _weight_in(self, tiles: _Tiles) -> TensorDescriptor:
        if tiles not in self._described:
            shape = [tiles.columns, tiles.depth]
            self._described[tiles] = TensorDescriptor.from_tensor(self._weight, shape)
        return self._described[tiles]

    def _tiles(self, rows: int, dtype: torch.dtype) -> _Tiles:
        """The fastest tiles of which there are enough."""
        choice: tuple[_Tiles, ...] = _FLOAT_TILES if dtype == torch.float32 else _HALF_TILES
        if self._gated or self._cuts > 1:
            choice = choice[1:]  # two sums a program
        if rows <= 64:
            choice = choice[-2:]
        for tiles in choice:
            if tiles.count(rows, self._out) >= _PROGRAMS:
                return tiles
        return choice[-1]


def _is_aligned(matrix: Tensor) -> bool:
    """Whether the copy engine reads tiles of ``matrix``."""
    return matrix.data_ptr() % 16 == 0 and matrix.stride(0) * matrix.element_size() % 16 == 0


@triton.jit
def _product(
    x, w, bias, y, parts, done, rows, x_stride, softcap,
    OUT: tl.constexpr, K: tl.constexpr, PART: tl.constexpr, CUTS: tl.constexpr,
    BESIDE: tl.constexpr, GATED: tl.constexpr, ACTIVATION: tl.constexpr, SOFTCAP: tl.constexpr,
    DESCRIBED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of y: [ROWS, COLUMNS]."""
    first_row, first_column = _tile(rows, OUT, ROWS, COLUMNS)
    row = first_row + tl.arange(0, ROWS)
    column = first_column + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < OUT)[None, :]
    if BESIDE:
        cut = tl.program_id(1)
        one, two = _part(
            x, w, rows, x_stride, first_row, first_column, cut,
            OUT, K, PART, GATED, DESCRIBED, ROWS, COLUMNS, DEPTH, PRECISION,
        )  # fmt: skip
        width: tl.constexpr = 2 * OUT if GATED else OUT
        place = parts + row[:, None] * width + column[None, :]
        tl.store(place + cut * rows * width, one, inside)
        if GATED:
            tl.store(place + cut * rows * width + OUT, two, inside)
        tl.debug_barrier()  # all of the tile is written before it is counted as done
        if tl.atomic_add(done + tl.program_id(0), 1, sem="acq_rel") < CUTS - 1:
            return
        tl.store(done + tl.program_id(0), 0)
        one = _add_parts(place, rows * width, inside, CUTS)
        two = one
        if GATED:
            two = _add_parts(place + OUT, rows * width, inside, CUTS)
    else:
        one, two = _part(
            x, w, rows, x_stride, first_row, first_column, 0,
            OUT, K, PART, GATED, DESCRIBED, ROWS, COLUMNS, DEPTH, PRECISION,
        )  # fmt: skip
        for cut in range(1, CUTS):
            more, other = _part(
                x, w, rows, x_stride, first_row, first_column, cut,
                OUT, K, PART, GATED, DESCRIBED, ROWS, COLUMNS, DEPTH, PRECISION,
            )  # fmt: skip
            one += more
            two += other
    if bias is not None:
        one += tl.load(bias + column, column < OUT, 0.0).to(tl.float32)[None, :]
        if GATED:
            two += tl.load(bias + OUT + column, column < OUT, 0.0).to(tl.float32)[None, :]
    if ACTIVATION >= 0:
        one = _activate(one, ACTIVATION)
    if GATED:
        one *= two
    if SOFTCAP:
        one = softcap * _tanh(one / softcap)
    place = y + row.to(tl.int64)[:, None] * OUT + column[None, :]
    tl.store(place, one.to(y.dtype.element_ty), inside)


@triton.jit
def _tile(rows, OUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """First row and column of this program's tile; eight tiles of rows share cached weights."""
    row_tiles, column_tiles = tl.cdiv(rows, ROWS), tl.cdiv(OUT, COLUMNS)
    number = tl.program_id(0)
    band = number // (8 * column_tiles)
    height = tl.minimum(row_tiles - band * 8, 8)
    row_tile = band * 8 + number % (8 * column_tiles) % height
    column_tile = number % (8 * column_tiles) // height
    return row_tile * ROWS, column_tile * COLUMNS


@triton.jit
def _part(
    x, w, rows, x_stride, first_row, first_column, cut,
    OUT: tl.constexpr, K: tl.constexpr, PART: tl.constexpr, GATED: tl.constexpr,
    DESCRIBED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Products of one part of the depth, summed from its first column to its last, in float32.

    The second is that with U, if gated. What lies outside the matrices counts as zero.
    """
    one = tl.zeros((ROWS, COLUMNS), tl.float32)
    two = one
    for start in range(0, PART, DEPTH):
        k = cut * PART + start
        a = _read(x, first_row, rows, k, x_stride, K, DESCRIBED, ROWS, DEPTH)
        b = _read(w, first_column, OUT, k, K, K, DESCRIBED, COLUMNS, DEPTH)
        one = tl.dot(a, b.T, one, input_precision=PRECISION)
        if GATED:
            c = _read(w, first_column + OUT, 2 * OUT, k, K, K, DESCRIBED, COLUMNS, DEPTH)
            two = tl.dot(a, c.T, two, input_precision=PRECISION)
    return one, two


@triton.jit
def _add_parts(place, stride, inside, CUTS: tl.constexpr):
    """The sum of the parts that stand ``stride`` apart, in order; past the cache of this core."""
    total = tl.load(place, inside, 0.0, cache_modifier=".cg")
    for cut in tl.static_range(1, CUTS):
        total += tl.load(place + cut * stride, inside, 0.0, cache_modifier=".cg")
    return total


@triton.jit
def _read(
    matrix, first, count, k, stride, K: tl.constexpr,
    DESCRIBED: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Rows [first, first + ROWS) of a matrix of ``count`` rows, from column k on."""
    if DESCRIBED:
        tile = matrix.load([first, k])
    else:
        row = first + tl.arange(0, ROWS)
        column = k + tl.arange(0, DEPTH)
        there = (row < count)[:, None] & (column < K)[None, :]
        place = row.to(tl.int64)[:, None] * stride + column[None, :]
        tile = tl.load(matrix + place, there, 0.0)
    return tile


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr):
    """The activations as ``gate.activation_number`` counts them."""
    if ACTIVATION == 0:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    if ACTIVATION == 1:
        return 0.5 * x * (1.0 + _tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    return x / (1.0 + tl.exp(-x))


@triton.jit
def _tanh(x):
    fade = tl.exp(-2.0 * tl.abs(x))
    result = (1.0 - fade) / (1.0 + fade)
    return tl.where(x < 0, -result, result)
