// Weights of eight bits, which become numbers of the activations' type before they are multiplied.
//
// They are stored in the panels of that type (tile.h), a byte for a number. Every int8 is exact in
// bfloat16 and float, so the sums are those of any weights; a scale for each column makes them whole
// (product.h).

#pragma once

#include <memory>
#include <type_traits>

#include "tile.h"

namespace headstream {

template <typename T>
inline void widen_plain(T* to, const int8_t* from, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) store(to + i, static_cast<float>(from[i]));
}

inline __attribute__((noinline)) void widen(float* to, const int8_t* from, int64_t count) {
  widen_plain(to, from, count);
}

// Not inlined: in each of many tiles it makes compiling a quarter longer.
//
// The high byte of a bfloat16 holds its sign and all but one bit of its exponent; both bytes of a
// magnitude come out of tables of 128.
inline __attribute__((noinline)) void widen(Bf16* to, const int8_t* from, int64_t count) {
  int64_t i = 0;
#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
  alignas(64) static constexpr auto kTables = [] {
    struct { uint8_t low[128], high[128]; } tables{};
    for (int value = 1; value < 128; ++value) {
      int exponent = 0;
      while (value >> (exponent + 1) != 0) ++exponent;
      const int bits = (127 + exponent) << 7 | ((value << 7 >> exponent) & 0x7F);
      tables.low[value] = bits & 0xFF;
      tables.high[value] = bits >> 8;
    }
    return tables;
  }();
  const auto table = [](const uint8_t* bytes) { return _mm512_load_si512(bytes); };
  const __m512i low0 = table(kTables.low), low1 = table(kTables.low + 64);
  const __m512i high0 = table(kTables.high), high1 = table(kTables.high + 64);
  const __m512i sign = _mm512_set1_epi8(-128);
  // Bytes are interleaved within each quarter of a vector: first to last in the order of the halves.
  const __m512i quarters = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  for (; i + 64 <= count; i += 64) {
    const __m512i bytes = _mm512_permutexvar_epi64(quarters, _mm512_loadu_si512(from + i));
    const __m512i magnitude = _mm512_abs_epi8(bytes);
    const __m512i low = _mm512_permutex2var_epi8(low0, magnitude, low1);
    const __m512i high = _mm512_ternarylogic_epi64(  // high | (bytes & sign)
        _mm512_permutex2var_epi8(high0, magnitude, high1), bytes, sign, 0xF8);
    _mm512_storeu_si512(to + i, _mm512_unpacklo_epi8(low, high));
    _mm512_storeu_si512(to + i + 32, _mm512_unpackhi_epi8(low, high));
  }
#endif
  widen_plain(to + i, from + i, count - i);
}

// A group of panels of W as a tile reads it: in the type T, run after run along the depth. This is
// the group of a W that has that type already.
template <typename T, typename W>
struct Group {
  static_assert(std::is_same_v<T, W>);
  static constexpr int64_t kRun = int64_t{1} << 40;  // steps of a run

  struct Room {  // what a thread needs for a group
    Room(int64_t, bool) {}
  };

  const W* panels;
  int64_t stride;  // numbers from panel to panel

  Group(const W* panels, int64_t depth, bool, const Room&)
      : panels(panels), stride(depth * kLanes) {}

  template <int C>
  const T* run(int64_t step, int64_t, bool) const { return panels + step * kDepth<T> * kLanes; }
};

// A group of int8 is widened by the pass that reads it first: into the nearest cache run by run if
// no other pass follows, into the next one as a whole otherwise.
template <typename T>
struct Group<T, int8_t> {
  static constexpr int64_t kRun = 32;

  struct Room {
    Room(int64_t depth, bool whole)
        : numbers(new T[kPanels * kLanes * (whole ? depth : kRun * kDepth<T>) + kLanes * kDepth<T>]) {}
    T* aligned_numbers() const {
      T* from = numbers.get();
      while (!aligned(from)) ++from;
      return from;
    }
    std::unique_ptr<T[]> numbers;
  };

  const int8_t* panels;
  int64_t stored_stride, stride;
  bool whole;
  T* near;

  Group(const int8_t* panels, int64_t depth, bool whole, const Room& room)
      : panels(panels), stored_stride(depth * kLanes),
        stride(whole ? stored_stride : kRun * kDepth<T> * kLanes), whole(whole),
        near(room.aligned_numbers()) {}

  // `steps` steps of C panels from `step` on; `known`: an earlier pass widened the whole group.
  template <int C>
  const T* run(int64_t step, int64_t steps, bool known) const {
    constexpr int64_t kLine = kDepth<T> * kLanes;
    T* to = near + (whole ? step * kLine : 0);
    if (!known)
      for (int c = 0; c < C; ++c)
        widen(to + c * stride, panels + c * stored_stride + step * kLine, steps * kLine);
    return to;
  }
};

}  // namespace headstream
