// A tile's path from panels to results: what linear.cpp and unembed.cpp share.

#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "tile.h"

namespace headstream {

// Steps along the depth summed by one accumulator before it is added to the whole: long sums of
// float lose digits, which those of bfloat16 never had.
template <typename T>
constexpr int64_t kSteps = std::is_same_v<T, float> ? 128 : 1 << 30;

struct Product {
  int64_t rows, x_stride, depth, columns;  // columns of W
  const float* bias;                       // [columns], null: none
  int64_t y_stride;

  int64_t panels() const { return (columns + kLanes - 1) / kLanes; }
  int64_t groups() const { return (panels() + kPanels - 1) / kPanels; }
};

constexpr int64_t kGroup = kPanels * kLanes;  // columns of a group of panels

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

// A row of a tile becomes a row of y as it is; it begins at `column` of W and at `to` in y.
struct Plain {
  static constexpr int64_t kShare = 1;  // columns of W for one of y

  template <typename Out, int C>
  static void finish(const Product& p, const Floats (&sums)[C], Out* to, int64_t column) {
    for (int c = 0; c < C; ++c, column += kLanes, to += kLanes)
      store_some(to, with_bias(p, sums[c], column), p.columns - column);
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

// All rows of x times one group of panels; y is where the group's first column goes in row 0.
template <typename Finish, typename T, typename Out>
void multiply_group(const Product& p, const T* x, const T* panels, int64_t group, Out* y) {
  const T* panel = panels + group * kPanels * p.depth * kLanes;
  const int64_t parts = (p.rows + kRows - 1) / kRows;
  with_constant<kPanels>(std::min<int64_t>(kPanels, p.panels() - group * kPanels), [&](auto width) {
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t row = part_bound(p.rows, parts, part);
      with_constant<kRows>(part_bound(p.rows, parts, part + 1) - row, [&](auto height) {
        multiply_tile<Finish, T, Out, height(), width()>(
            p, x + row * p.x_stride, panel, share_of_next(p, panel, part, parts),
            y + row * p.y_stride, group * kGroup);
      });
    }
  });
}

}  // namespace headstream
