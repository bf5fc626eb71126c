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

}  // namespace headstream
