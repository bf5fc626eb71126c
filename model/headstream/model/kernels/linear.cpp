// y = x W^T + b with W packed into panels of 16 columns (tile.h), for CPUs; and of a gated unit
//
//   y = f(x G^T + b) * (x U^T + c)
//
// where kPanels / 2 panels of G stand before as many of U, so that both halves of an element meet in
// the registers of one tile.
//
// Small batches are bound by reading W once from memory, large ones by the multipliers. Both take
// the same path: a thread walks its share of the panels, and multiplies each group of kPanels with
// a block of rows while the group is in a near cache. From the second pass over a group on, memory
// would be idle: the passes fetch the next group.

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "activation.h"
#include "tile.h"

namespace {

using namespace headstream;

constexpr int64_t kRowBlock = 128;  // rows of x that stay in the second-level cache
constexpr int64_t kFar = 1 << 24;   // bytes of a result that no cache would keep

// Steps along the depth summed by one accumulator before it is added to the whole: long sums of
// float lose digits, which those of bfloat16 never had.
template <typename T>
constexpr int64_t kSteps = std::is_same_v<T, float> ? 128 : 1 << 30;

struct Product {
  int64_t rows, x_stride, depth, columns;  // columns of W
  const float* bias;                       // [columns], null: none
  int64_t y_stride;
  bool far = false;  // the result goes to memory, past the caches
};

// The sums of columns [column, column + 16), with their bias.
inline Floats with_bias(const Product& p, Floats sums, int64_t column) {
  return p.bias == nullptr ? sums : sums + load_floats(p.bias + column);
}

template <typename Out>
void store_some(Out* to, Floats values, int64_t count) {
  if (count >= kLanes) return store_floats(to, values);
  Out last[kLanes];
  store_floats(last, values);
  std::copy_n(last, count, to);
}

// A row of a tile becomes a row of y as it is.
struct Plain {
  template <typename Out, int C>
  static void finish(const Product& p, const Floats (&sums)[C], Out* row, int64_t column) {
    for (int c = 0; c < C; ++c, column += kLanes) {
      if constexpr (std::is_same_v<Out, float>)
        if (p.far) {
          store_past_caches(row + column, sums[c]);
          continue;
        }
      store_some(row + column, with_bias(p, sums[c], column), p.columns - column);
    }
  }
};

// The first half of a tile's panels is activated and multiplied with the second.
template <typename F>
struct Gated {
  template <typename Out, int C>
  static void finish(const Product& p, const Floats (&sums)[C], Out* row, int64_t column) {
    if constexpr (C == kPanels)  // there are no others
      for (int c = 0; c < C / 2; ++c) {
        const Floats up = with_bias(p, sums[c + C / 2], column + (c + C / 2) * kLanes);
        alignas(64) float gate[kLanes];
        store_floats(gate, with_bias(p, sums[c], column + c * kLanes));
#pragma omp simd
        for (int i = 0; i < kLanes; ++i) gate[i] = F::of(gate[i]);
        store_floats(row + column / 2 + c * kLanes, load_floats(gate) * up);
      }
  }
};

template <typename Finish, typename T, typename Out, int R, int C>
void multiply_tile(const Product& p, const T* x, const T* panel, Ahead<T> ahead, Out* y,
                   int64_t column) {
  const int64_t steps = p.depth / kDepth<T>, stride = p.depth * kLanes;
  Floats sums[R][C] = {};
  for (int64_t k = 0; k < steps; k += kSteps<T>) {
    Floats acc[R][C] = {};
    multiply<T, R, C>(acc, x + k * kDepth<T>, p.x_stride, panel + k * kDepth<T> * kLanes, stride,
                      std::min(kSteps<T>, steps - k), ahead.from(k));
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) sums[r][c] += acc[r][c];
  }
  for (int r = 0; r < R; ++r) Finish::finish(p, sums[r], y + r * p.y_stride, column);
}

// What pass `part` of `parts` over a group of panels fetches of the next one.
template <typename T>
Ahead<T> share_of_next(const Product& p, const T* panel, int64_t part, int64_t parts) {
  if (parts == 1) return {};  // every line is wanted at once
  const int64_t stride = p.depth * kLanes, each = (kPanels + parts - 1) / parts;
  if (part * each >= kPanels) return {};
  return {panel + (kPanels + part * each) * stride, stride, each};
}

template <typename Finish, typename T, typename Out>
void multiply_all(const T* x, const T* panels, Out* y, const Product& p) {
  const int64_t count = (p.columns + kLanes - 1) / kLanes;
  const int64_t groups = (count + kPanels - 1) / kPanels;
  for (int64_t begin = 0; begin < p.rows; begin += kRowBlock) {
    const int64_t rows = std::min(kRowBlock, p.rows - begin);
    const int64_t parts = (rows + kRows - 1) / kRows;
#pragma omp parallel for schedule(static)
    for (int64_t g = 0; g < groups; ++g) {
      const T* panel = panels + g * kPanels * p.depth * kLanes;
      with_constant<kPanels>(std::min<int64_t>(kPanels, count - g * kPanels), [&](auto width) {
        for (int64_t part = 0; part < parts; ++part) {
          const int64_t row = begin + part_bound(rows, parts, part);
          const int64_t height = begin + part_bound(rows, parts, part + 1) - row;
          with_constant<kRows>(height, [&](auto r) {
            multiply_tile<Finish, T, Out, r(), width()>(
                p, x + row * p.x_stride, panel, share_of_next(p, panel, part, parts),
                y + row * p.y_stride, g * kPanels * kLanes);
          });
        }
      });
    }
  }
}

template <typename T, typename Out>
int linear(const T* x, const T* panels, Out* y, const float* bias, int64_t rows, int64_t x_stride,
           int64_t depth, int64_t columns) {
  if (depth % kDepth<T> != 0) return 1;
  Product p{rows, x_stride, depth, columns, bias, columns};
  p.far = bias == nullptr && columns % kLanes == 0 && aligned(y) &&
          rows * columns * static_cast<int64_t>(sizeof(Out)) > kFar;
  multiply_all<Plain>(x, panels, y, p);
  return 0;
}

template <typename T>
int gated(int64_t activation, const T* x, const T* panels, T* y, const float* bias, int64_t rows,
          int64_t x_stride, int64_t depth, int64_t columns) {
  if (depth % kDepth<T> != 0 || columns % (kPanels * kLanes) != 0 || kPanels % 2 != 0) return 1;
  const Product p{rows, x_stride, depth, columns, bias, columns / 2};
  return with_activation(activation, [&](auto f) {
    multiply_all<Gated<decltype(f)>>(x, panels, y, p);
  }) ? 0 : 1;
}

// W [columns, depth] row by row -> panels; columns past the end are zero.
template <typename T>
void pack(const T* weight, int64_t columns, int64_t depth, T* panels) {
  const int64_t count = (columns + kLanes - 1) / kLanes;
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < count; ++n)
    for (int64_t k = 0; k < depth; k += kDepth<T>)
      for (int64_t lane = 0; lane < kLanes; ++lane)
        for (int64_t i = 0; i < kDepth<T>; ++i) {
          const int64_t column = n * kLanes + lane;
          T* to = panels + n * depth * kLanes + k * kLanes + lane * kDepth<T> + i;
          *to = column < columns ? weight[column * depth + k + i] : T{};
        }
}

}  // namespace

// All return 0, or 1 where the shape is not supported. `bias` is padded to whole vectors.
extern "C" int linear_float32(const float* x, const float* panels, float* y, const float* bias,
    int64_t rows, int64_t x_stride, int64_t depth, int64_t columns) {
  return linear(x, panels, y, bias, rows, x_stride, depth, columns);
}

extern "C" int linear_bfloat16(const headstream::Bf16* x, const headstream::Bf16* panels, headstream::Bf16* y, const float* bias,
    int64_t rows, int64_t x_stride, int64_t depth, int64_t columns) {
  return linear(x, panels, y, bias, rows, x_stride, depth, columns);
}

extern "C" int linear_bfloat16_float32(const headstream::Bf16* x, const headstream::Bf16* panels, float* y, const float* bias,
    int64_t rows, int64_t x_stride, int64_t depth, int64_t columns) {
  return linear(x, panels, y, bias, rows, x_stride, depth, columns);
}

extern "C" int gated_float32(int64_t activation, const float* x, const float* panels, float* y, const float* bias,
    int64_t rows, int64_t x_stride, int64_t depth, int64_t columns) {
  return gated(activation, x, panels, y, bias, rows, x_stride, depth, columns);
}

extern "C" int gated_bfloat16(int64_t activation, const headstream::Bf16* x, const headstream::Bf16* panels, headstream::Bf16* y, const float* bias,
    int64_t rows, int64_t x_stride, int64_t depth, int64_t columns) {
  return gated(activation, x, panels, y, bias, rows, x_stride, depth, columns);
}

// Columns that a gated product takes at once; half of them are the gate's.
extern "C" int64_t gated_columns() { return kPanels % 2 == 0 ? kPanels * kLanes : 0; }

extern "C" void pack_float32(const float* weight, int64_t columns, int64_t depth, float* panels) {
  pack(weight, columns, depth, panels);
}

extern "C" void pack_bfloat16(const headstream::Bf16* weight, int64_t columns, int64_t depth,
                              headstream::Bf16* panels) {
  pack(weight, columns, depth, panels);
}
