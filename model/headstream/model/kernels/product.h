// A tile's path from panels to results: what linear.h and unembed.h share.

#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "tile.h"
#include "widen.h"

namespace headstream {

// Steps along the depth summed by one accumulator before it is added to the whole: long sums of
// float lose digits, which those of bfloat16 never had.
template <typename T>
constexpr int64_t kSteps = std::is_same_v<T, float> ? 128 : 1 << 30;

struct Product {
  int64_t rows, x_stride, depth, columns;  // columns of W
  const float* scale;                      // [columns] of W, null: one
  const float* bias;                       // [columns], null: none
  int64_t y_stride;

  int64_t panels() const { return (columns + kLanes - 1) / kLanes; }
  int64_t groups() const { return (panels() + kPanels - 1) / kPanels; }
};

constexpr int64_t kGroup = kPanels * kLanes;  // columns of a group of panels

// The sums of columns [column, column + 16), with their scale and bias.
inline Floats scaled_and_biased(const Product& p, Floats sums, int64_t column) {
  if (p.scale != nullptr) sums *= load_floats(p.scale + column);
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
      store_some(to, scaled_and_biased(p, sums[c], column), p.columns - column);
  }
};

// Asks for the lines of N numbers that will be written: a store that misses waits for memory, and
// all behind it.
template <int N, typename Out>
inline void fetch_to_write(Out* to) {
  constexpr int64_t kLine = 64 / sizeof(Out);
  for (int64_t i = 0; i < N; i += kLine) __builtin_prefetch(to + i, 1, 3);
}

template <typename Finish, typename T, typename W, typename Out, int R, int C>
void multiply_tile(const Product& p, const T* x, const Group<T, W>& group, bool known,
                   Ahead<T, W> ahead, Out* y, int64_t column) {
  const int64_t steps = p.depth / kDepth<T>;
  for (int r = 0; r < R; ++r)
    fetch_to_write<C * kLanes / Finish::kShare>(y + r * p.y_stride);
  Floats sums[R][C] = {};
  for (int64_t begin = 0; begin < steps; begin += kSteps<T>) {
    Floats acc[R][C] = {};
    const int64_t end = std::min(begin + kSteps<T>, steps);
    for (int64_t k = begin; k < end; k += group.kRun) {
      const int64_t count = std::min(group.kRun, end - k);
      multiply<T, R, C>(acc, x + k * kDepth<T>, p.x_stride, group.template run<C>(k, count, known),
                        group.stride, count, ahead.from(k));
    }
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) sums[r][c] += acc[r][c];
  }
  for (int r = 0; r < R; ++r) Finish::finish(p, sums[r], y + r * p.y_stride, column);
}

// What pass `part` of `parts` over a group of panels fetches of the next one.
template <typename T, typename W>
Ahead<T, W> share_of_next(const Product& p, const W* panel, int64_t part, int64_t parts) {
  if (parts == 1) return {};  // every line is wanted at once
  const int64_t stride = p.depth * kLanes, each = (kPanels + parts - 1) / parts;
  if (part * each >= kPanels) return {};
  return {panel + (kPanels + part * each) * stride, stride, each};
}

// Passes over a group of panels that all rows take.
inline int64_t passes(const Product& p) { return (p.rows + kRows - 1) / kRows; }

// Room for the groups that one thread multiplies, one after the other.
template <typename T, typename W>
typename Group<T, W>::Room room_for(const Product& p) { return {p.depth, passes(p) > 1}; }

// All rows of x times one group of panels; y is where the group's first column goes in row 0.
template <typename Finish, typename T, typename W, typename Out>
void multiply_group(const Product& p, const T* x, const W* panels, int64_t index, Out* y,
                    const typename Group<T, W>::Room& room) {
  const W* panel = panels + index * kPanels * p.depth * kLanes;
  const int64_t parts = passes(p);
  const Group<T, W> group(panel, p.depth, parts > 1, room);
  with_constant<kPanels>(std::min<int64_t>(kPanels, p.panels() - index * kPanels), [&](auto width) {
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t row = part_bound(p.rows, parts, part);
      with_constant<kRows>(part_bound(p.rows, parts, part + 1) - row, [&](auto height) {
        multiply_tile<Finish, T, W, Out, height(), width()>(
            p, x + row * p.x_stride, group, part > 0, share_of_next<T>(p, panel, part, parts),
            y + row * p.y_stride, index * kGroup);
      });
    }
  });
}

}  // namespace headstream
