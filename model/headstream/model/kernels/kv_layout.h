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

#include <vector>

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
  for (int64_t i = 0; i < whole; i += kStep)
    std::memcpy(to + i * kLanes, from + i, kStep * sizeof(T));  // one word: no call
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

// to[i][j] = from[j][i] of 16 x 16 words, the rows of `from` being `stride` bytes apart.
inline void turn_square(const char* from, int64_t stride, char* to) {
#ifdef __AVX512F__
  __m512i rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = _mm512_loadu_si512(from + i * stride);
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) {  // squares of `half` change places
    const __m512i other = _mm512_set1_epi32(kLanes - half), shift = _mm512_set1_epi32(half);
    const __mmask16 upper = _mm512_test_epi32_mask(lane, shift);
    const __m512i first = _mm512_mask_add_epi32(lane, upper, lane, other);
    const __m512i second = _mm512_add_epi32(first, shift);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i & half) continue;
      const __m512i low = rows[i], high = rows[i + half];
      rows[i] = _mm512_permutex2var_epi32(low, first, high);
      rows[i + half] = _mm512_permutex2var_epi32(low, second, high);
    }
  }
  for (int i = 0; i < kLanes; ++i) _mm512_storeu_si512(to + i * kLanes * 4, rows[i]);
#else
  for (int64_t i = 0; i < kLanes; ++i)
    for (int64_t j = 0; j < kLanes; ++j)
      std::memcpy(to + (i * kLanes + j) * 4, from + j * stride + i * 4, 4);
#endif
}

// Puts 16 rows of `count` numbers, `stride` apart, into a panel of keys; rows of whole vectors.
template <typename T>
inline void put_lanes(T* panel, const T* from, int64_t stride, int64_t count) {
  constexpr int64_t kWide = kDepth<T> * kLanes;  // numbers of 16 words
  for (int64_t i = 0; i < count; i += kWide)
    turn_square(reinterpret_cast<const char*>(from + i), stride * sizeof(T),
                reinterpret_cast<char*>(panel + i * kLanes));
}

// Puts a step of rows, `stride` apart, at their depth of the panels of values; as put_depth does.
inline void put_step(float* panels, int64_t panel_stride, const float* from, int64_t, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes)
    store_floats(panels + i / kLanes * panel_stride, load_floats(from + i));
}
inline void put_step(Bf16* panels, int64_t panel_stride, const Bf16* from, int64_t stride,
                     int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    uint32_t pairs[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane)
      pairs[lane] = from[i + lane].bits | static_cast<uint32_t>(from[stride + i + lane].bits) << 16;
    std::memcpy(panels + i / kLanes * panel_stride, pairs, sizeof pairs);
  }
}

// Puts the keys and values of `rows` rows, `stride` apart, into their slots of the pools.
template <typename T>
void write_kv(const KvLayout& layout, const T* k, const T* v, int64_t stride, int64_t rows,
              const int64_t* slots, T* k_pool, T* v_pool) {
  constexpr int64_t kWorthThreads = 1 << 14;  // numbers; below, starting threads costs more
  const int64_t d = layout.d_head, width = layout.width();
  std::vector<int64_t> begins;  // of rows that fill a panel together, and of single ones
  for (int64_t n = 0; n < rows;) {
    begins.push_back(n);
    const bool whole = d % (kDepth<T> * kLanes) == 0 && slots[n] % kLanes == 0 &&
                       n + kLanes <= rows && slots[n + kLanes - 1] == slots[n] + kLanes - 1;
    n += whole ? kLanes : 1;
  }
  const int64_t count = begins.size();
  begins.push_back(rows);
#pragma omp parallel for if (rows * layout.n_kv_heads * d > kWorthThreads)
  for (int64_t unit = 0; unit < count; ++unit) {
    const int64_t n = begins[unit];
    const int64_t block = slots[n] / layout.block_size, offset = slots[n] % layout.block_size;
    const T *key = k + n * stride, *value = v + n * stride;
    if (begins[unit + 1] - n == kLanes) {
      for (int64_t g = 0; g < layout.n_kv_heads; ++g) {
        put_lanes(k_pool + layout.key_panel(block, g, offset), key + g * d, stride, d);
        for (int64_t step = 0; step < kLanes; step += kDepth<T>)
          put_step(v_pool + layout.value_panel(block, g, offset + step), layout.value_stride(),
                   value + step * stride + g * d, stride, d);
      }
      continue;
    }
    const int64_t lane = offset % kLanes, step = offset % kDepth<T>;
    // What another sequence left in the rest of the step that this token opens must not be there; a
    // neighbour in this call comes by itself.
    const bool opens = step == 0 && !(n + 1 < rows && slots[n + 1] == slots[n] + 1);
    for (int64_t g = 0; g < layout.n_kv_heads; ++g) {
      put_lane(k_pool + layout.key_panel(block, g, offset - lane), lane, key + g * d, d, width);
      put_depth(v_pool + layout.value_panel(block, g, offset - step), layout.value_stride(), step,
                value + g * d, d, opens);
    }
  }
}

}  // namespace headstream
