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

// Place of the number at `depth` in `lane` of a panel.
template <typename T>
inline int64_t panel_place(int64_t depth, int64_t lane) {
  return (depth / kDepth<T> * kLanes + lane) * kDepth<T> + depth % kDepth<T>;
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
    // The multiplier takes a step along the depth whole. What another sequence left in the rest of
    // the step that this token opens must not be there; a neighbour in this call comes by itself.
    const bool opens = step == 0 && !(n + 1 < rows && slots[n + 1] == slots[n] + 1);
    for (int64_t g = 0; g < layout.n_kv_heads; ++g) {
      const T *key = k + n * stride + g * d, *value = v + n * stride + g * d;
      T* keys = k_pool + layout.key_panel(block, g, offset - lane);
      for (int64_t i = 0; i < width; ++i) keys[panel_place<T>(i, lane)] = i < d ? key[i] : T{};
      T* values = v_pool + layout.value_panel(block, g, offset - step);
      for (int64_t i = 0; i < d; ++i) {
        T* panel = values + i / kLanes * layout.value_stride();
        panel[panel_place<T>(step, i % kLanes)] = value[i];
        for (int64_t rest = 1; opens && rest < kDepth<T>; ++rest)
          panel[panel_place<T>(rest, i % kLanes)] = T{};
      }
    }
  }
}

}  // namespace headstream
