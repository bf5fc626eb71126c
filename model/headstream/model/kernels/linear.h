// y = x W^T + b with W packed into panels of 16 columns (tile.h), for CPUs; the same activated,
// y = f(x W^T + b); and of a gated unit
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

#pragma once

#include <algorithm>
#include <cstdint>

#include "activation.h"
#include "product.h"

namespace headstream {

constexpr int64_t kRowBlock = 128;  // rows of x that stay in the second-level cache

template <typename F>
inline Floats activate(Floats x) {
  alignas(64) float values[kLanes];
  store_floats(values, x);
#pragma omp simd
  for (int i = 0; i < kLanes; ++i) values[i] = F::of(values[i]);
  return load_floats(values);
}

// A tile is activated.
template <typename F>
struct Activated {
  static constexpr int64_t kShare = 1;

  template <typename Out, int C>
  static void finish(const Product& p, const Floats (&sums)[C], Out* to, int64_t column) {
    for (int c = 0; c < C; ++c, column += kLanes, to += kLanes)
      store_some(to, activate<F>(scaled_and_biased(p, sums[c], column)), p.columns - column);
  }
};

// The first half of a tile's panels is activated and multiplied with the second.
template <typename F>
struct Gated {
  static constexpr int64_t kShare = 2;

  template <typename Out, int C>
  static void finish(const Product& p, const Floats (&sums)[C], Out* to, int64_t column) {
    if constexpr (C == kPanels)  // there are no others
      for (int c = 0; c < C / 2; ++c) {
        const Floats up = scaled_and_biased(p, sums[c + C / 2], column + (c + C / 2) * kLanes);
        const Floats gate = scaled_and_biased(p, sums[c], column + c * kLanes);
        store_floats(to + c * kLanes, activate<F>(gate) * up);
      }
  }
};

template <typename Finish, typename T, typename W, typename Out>
void multiply_all(const T* x, const W* panels, Out* y, const Product& whole) {
#pragma omp parallel
  {
    Product p = whole;
    const auto room = room_for<T, W>(p);
    for (int64_t begin = 0; begin < whole.rows; begin += kRowBlock) {
      p.rows = std::min(kRowBlock, whole.rows - begin);
#pragma omp for schedule(static) nowait  // a thread has the same columns in every block
      for (int64_t g = 0; g < p.groups(); ++g)
        multiply_group<Finish>(p, x + begin * p.x_stride, panels, g,
                               y + begin * p.y_stride + g * kGroup / Finish::kShare, room);
    }
  }
}

template <typename T, typename W>
int linear(const T* x, const W* panels, T* y, const float* scale, const float* bias, int64_t rows,
           int64_t x_stride, int64_t depth, int64_t columns) {
  if (depth % kDepth<T> != 0) return 1;
  multiply_all<Plain>(x, panels, y, Product{rows, x_stride, depth, columns, scale, bias, columns});
  return 0;
}

template <typename T, typename W>
int activated(int64_t activation, const T* x, const W* panels, T* y, const float* scale,
              const float* bias, int64_t rows, int64_t x_stride, int64_t depth, int64_t columns) {
  if (depth % kDepth<T> != 0) return 1;
  const Product p{rows, x_stride, depth, columns, scale, bias, columns};
  return with_activation(activation, [&](auto f) {
    multiply_all<Activated<decltype(f)>>(x, panels, y, p);
  }) ? 0 : 1;
}

template <typename T, typename W>
int gated(int64_t activation, const T* x, const W* panels, T* y, const float* scale,
          const float* bias, int64_t rows, int64_t x_stride, int64_t depth, int64_t columns) {
  if (depth % kDepth<T> != 0 || columns % kGroup != 0 || kPanels % 2 != 0) return 1;
  const Product p{rows, x_stride, depth, columns, scale, bias, columns / 2};
  return with_activation(activation, [&](auto f) {
    multiply_all<Gated<decltype(f)>>(x, panels, y, p);
  }) ? 0 : 1;
}

}  // namespace headstream

// All return 0, or 1 where the shape is not supported. `scale` and `bias` are padded to whole
// vectors. T: of x and y, W: of the panels.
#define HEADSTREAM_LINEAR(SUFFIX, T, W)                                                           \
  extern "C" int linear_##SUFFIX(const T* x, const W* panels, T* y, const float* scale,           \
                                 const float* bias, int64_t rows, int64_t x_stride, int64_t depth,\
                                 int64_t columns) {                                               \
    return headstream::linear(x, panels, y, scale, bias, rows, x_stride, depth, columns);         \
  }                                                                                               \
  extern "C" int activated_##SUFFIX(int64_t activation, const T* x, const W* panels, T* y,        \
                                    const float* scale, const float* bias, int64_t rows,          \
                                    int64_t x_stride, int64_t depth, int64_t columns) {           \
    return headstream::activated(activation, x, panels, y, scale, bias, rows, x_stride, depth,    \
                                 columns);                                                        \
  }                                                                                               \
  extern "C" int gated_##SUFFIX(int64_t activation, const T* x, const W* panels, T* y,            \
                                const float* scale, const float* bias, int64_t rows,              \
                                int64_t x_stride, int64_t depth, int64_t columns) {               \
    return headstream::gated(activation, x, panels, y, scale, bias, rows, x_stride, depth,        \
                             columns);                                                            \
  }

// Columns that a gated product takes at once; half of them are the gate's.
extern "C" int64_t gated_columns() { return headstream::kPanels % 2 == 0 ? headstream::kGroup : 0; }
