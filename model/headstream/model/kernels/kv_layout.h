// Where the keys and values of a token lie in the block pool.
//
// Both are stored in the panels that the multiplier reads (tile.h), one KV head after the other, so
// that attention multiplies straight out of the pool. In a block of B tokens:
//
//   keys    [B / 16] panels of 16 tokens, the depth is the head's width:  q . k of 16 tokens
//   values  [D / 16] panels of 16 dimensions, the depth is the tokens:    sum of w v, 16 dimensions
//
// D is the head's width rounded up to whole vectors.

#pragma once

#include "tile.h"

namespace headstream {

struct KvLayout {
  int64_t n_kv_heads, d_head, block_size;

  int64_t width() const { return (d_head + kLanes - 1) / kLanes * kLanes; }
  int64_t head(int64_t block, int64_t kv_head) const {
    return (block * n_kv_heads + kv_head) * block_size * width();
  }
  // Panel of the 16 keys from `offset` on; offset is a multiple of 16.
  int64_t key_panel(int64_t block, int64_t kv_head, int64_t offset) const {
    return head(block, kv_head) + offset * width();
  }
  // First panel of values, from the token `offset` on; offset is a multiple of the depth's step.
  int64_t value_panel(int64_t block, int64_t kv_head, int64_t offset) const {
    return head(block, kv_head) + offset * kLanes;
  }
  int64_t value_stride() const { return block_size * kLanes; }  // between panels
};

// Puts a row of `count` numbers into its lane of a panel of keys, and zeros behind it up to `depth`.
template <typename T>
inline void put_lane(T* panel, int64_t lane, const T* from, int64_t count, int64_t depth) {
  constexpr int64_t kStep = kDepth<T>;
  T* to = panel + lane * kStep;
  const int64_t whole = count / kStep * kStep;
  for (int64_t i = 0; i < whole; i += kStep) std::copy_n(from + i, kStep, to + i * kLanes);
  for (int64_t i = whole; i < depth; ++i)
    to[i / kStep * kStep * kLanes + i % kStep] = i < count ? from[i] : T{};
}

// Puts a row of `count` numbers, one for each lane, at one depth of the panels of values. The
// multiplier takes a step along the depth whole: with `opens` the rest of the step is cleared.
template <typename T>
inline void put_depth(T* panels, int64_t stride, int64_t depth, const T* from, int64_t count,
                      bool opens) {
  constexpr int64_t kStep = kDepth<T>;
  for (int64_t i = 0; i < count; i += kLanes) {
    T* to = panels + i / kLanes * stride + depth / kStep * kStep * kLanes;
    if (kStep > 1 && opens) std::fill_n(to, kStep * kLanes, T{});
    const int64_t lanes = std::min<int64_t>(kLanes, count - i);
    for (int64_t lane = 0; lane < lanes; ++lane) to[lane * kStep + depth % kStep] = from[i + lane];
  }
}

// Puts the keys and values of `rows` rows, `stride` apart, into their slots of the pools.
template <typename T>
void write_kv(const KvLayout& layout, const T* k, const T* v, int64_t stride, int64_t rows,
              const int64_t* slots, T* k_pool, T* v_pool) {
  constexpr int64_t kWorthThreads = 1 << 14;  // numbers; below, starting threads costs more
  const int64_t d = layout.d_head, width = layout.width();
#pragma omp parallel for if (rows * layout.n_kv_heads * d > kWorthThreads)
  for (int64_t n = 0; n < rows; ++n) {
    const int64_t block = slots[n] / layout.block_size, offset = slots[n] % layout.block_size;
    const int64_t lane = offset % kLanes, step = offset % kDepth<T>;
    // What another sequence left in the rest of the step that this token opens must not be there; a
    // neighbour in this call comes by itself.
    const bool opens = step == 0 && !(n + 1 < rows && slots[n + 1] == slots[n] + 1);
    for (int64_t g = 0; g < layout.n_kv_heads; ++g) {
      put_lane(k_pool + layout.key_panel(block, g, offset - lane), lane, k + n * stride + g * d, d,
               width);
      put_depth(v_pool + layout.value_panel(block, g, offset - step), layout.value_stride(), step,
                v + n * stride + g * d, d, opens);
    }
  }
}

}  // namespace headstream
