// The register tile that every product of this package is made of.
//
//   acc[r][c * 16 + lane] += sum_k x[r, k] * W[c * 16 + lane, k]      r < R, c < C
//
// W is stored in panels of 16 columns: for every step along the depth, the numbers the 16 lanes of
// one vector need lie side by side. A step is one number for float and a pair for bfloat16, which
// is what the processor's dot product (AVX-512 BF16) takes:
//
//   float     panel[depth][16]            bfloat16  panel[depth / 2][16][2]
//
// Every element is summed in the order of the depth by one accumulator, whatever R, C, the rest of
// the batch and the number of threads are. So a row's bits depend on that row alone.

#pragma once

#include "numbers.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace headstream {

constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(kLanes * sizeof(float))));
typedef uint32_t Words __attribute__((vector_size(kLanes * sizeof(uint32_t))));

#ifdef __AVX512F__
constexpr int kRows = 6, kPanels = 4;  // 24 of 32 registers accumulate
#else
constexpr int kRows = 3, kPanels = 1;  // a vector takes two or four registers
#endif

template <typename T>
constexpr int kDepth = 1;  // numbers along the depth that one step takes
template <>
constexpr int kDepth<Bf16> = 2;

inline Floats load_floats(const float* from) {
  Floats value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
inline void store_floats(float* to, Floats value) { std::memcpy(to, &value, sizeof value); }

inline void store_floats(Bf16* to, Floats value) {  // to the nearest, even
#ifdef __AVX512BF16__
  const auto rounded = _mm512_cvtneps_pbh((__m512)value);
  std::memcpy(to, &rounded, sizeof rounded);
#else
  for (int i = 0; i < kLanes; ++i) store(to + i, value[i]);
#endif
}

// Whether a whole vector can be stored there past the caches.
inline bool aligned(const void* to) { return reinterpret_cast<uintptr_t>(to) % sizeof(Floats) == 0; }
inline void store_past_caches(float* to, Floats value) {
#ifdef __AVX512F__
  _mm512_stream_ps(to, (__m512)value);
#else
  store_floats(to, value);
#endif
}

inline Floats spread(const float* x) { return *x - Floats{}; }
inline Words spread(const Bf16* pair) {
  uint32_t bits;
  std::memcpy(&bits, pair, sizeof bits);
  return bits | Words{};
}

inline Floats columns(const float* panel) { return load_floats(panel); }
inline Words columns(const Bf16* panel) {
  Words value;
  std::memcpy(&value, panel, sizeof value);
  return value;
}

inline Floats multiply_add(Floats sum, Floats x, Floats w) { return sum + x * w; }
inline Floats multiply_add(Floats sum, Words x, Words w) {
#ifdef __AVX512BF16__
  return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
#else
  sum += (Floats)(x << 16) * (Floats)(w << 16);
  return sum + (Floats)(x & 0xFFFF0000u) * (Floats)(w & 0xFFFF0000u);
#endif
}

// Panels that will be wanted soon: `count` of them are brought towards the processor, one line for
// each step of the product that runs meanwhile, so that memory and multipliers work side by side.
// They are stored as W.
template <typename T, typename W = T>
struct Ahead {
  const W* panel = nullptr;
  int64_t stride = 0, count = 0;

  Ahead from(int64_t step) const { return {panel + step * kDepth<T> * kLanes, stride, count}; }
};

// Adds `steps` steps of x (rows `x_stride` apart) times C panels (`panel_stride` apart).
template <typename T, int R, int C, typename W = T>
inline __attribute__((always_inline)) void multiply(Floats (&acc)[R][C], const T* x,
                                                    int64_t x_stride, const T* panel,
                                                    int64_t panel_stride, int64_t steps,
                                                    Ahead<T, W> ahead = {}) {
  constexpr int64_t kLine = kDepth<T> * kLanes;  // numbers of a step, one cache line
  for (int64_t k = 0; k < steps; ++k) {
    decltype(columns(panel)) w[C];
    for (int c = 0; c < C; ++c) w[c] = columns(panel + c * panel_stride + k * kLine);
    for (int64_t a = 0; a < ahead.count; ++a)
      __builtin_prefetch(ahead.panel + a * ahead.stride + k * kLine, 0, 2);
    for (int r = 0; r < R; ++r) {
      const auto value = spread(x + r * x_stride + k * kDepth<T>);
      for (int c = 0; c < C; ++c) acc[r][c] = multiply_add(acc[r][c], value, w[c]);
    }
  }
}

// Calls f with an integral constant equal to `count`, 1 <= count <= Most.
template <int Most, typename F>
inline __attribute__((always_inline)) void with_constant(int64_t count, F&& f) {
  if constexpr (Most > 1) {
    if (count < Most) return with_constant<Most - 1>(count, f);
  }
  f(std::integral_constant<int, Most>{});
}

// The bounds of part `index` when `total` is split into `parts` of nearly equal size.
inline int64_t part_bound(int64_t total, int64_t parts, int64_t index) {
  return total * index / parts;
}

}  // namespace headstream
