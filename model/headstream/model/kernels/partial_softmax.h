// Softmax over a row's keys, chunk by chunk (Milakov and Gimelshein 2018, arXiv:1805.02867).

#pragma once

#include <limits>

#include "tile.h"

namespace headstream {

constexpr int64_t kChunk = 128;  // keys, counted from the sequence's position 0
constexpr float kNothing = -std::numeric_limits<float>::infinity();

// softmax(scores) V of some keys: the largest score, the sum of 2^(score - maximum), and the values
// weighted by that power. Scores are scaled for powers of two.
struct Partial {
  float maximum, sum;
  float* values;
};

// Not inlined: all callers must round alike.
inline __attribute__((noinline)) void merge(Partial& total, const Partial& part, int64_t width) {
  if (part.maximum == kNothing) return;
  if (total.maximum == kNothing) {
    total.maximum = part.maximum;
    total.sum = part.sum;
#pragma omp simd  // a call that copies would cost more
    for (int64_t i = 0; i < width; ++i) total.values[i] = part.values[i];
    return;
  }
  const float maximum = std::max(total.maximum, part.maximum);
  const float before = exp2_negative(total.maximum - maximum);
  const float after = exp2_negative(part.maximum - maximum);
  total.maximum = maximum;
  total.sum = total.sum * before + part.sum * after;
#pragma omp simd
  for (int64_t i = 0; i < width; ++i)
    total.values[i] = total.values[i] * before + part.values[i] * after;
}

template <int N>
struct Lanes {
  typedef float Vector __attribute__((vector_size(N * sizeof(float))));
};

// All lanes joined by f: halves, then quarters and so on.
template <int N = kLanes, typename F>
inline float across(const typename Lanes<N>::Vector& lanes, F&& f) {
  if constexpr (N == 2) {
    return f(lanes[0], lanes[1]);
  } else {
    typename Lanes<N / 2>::Vector low, high;
    std::memcpy(&low, &lanes, sizeof low);
    std::memcpy(&high, reinterpret_cast<const char*>(&lanes) + sizeof low, sizeof high);
    return across<N / 2>(f(low, high), f);
  }
}

// The places of a row's scores that it sees, [from, to).
struct Seen {
  int64_t from, to;
};

// Lanes of the vector at `begin` that are seen keep their value, all others get `instead`.
inline Floats only_seen(Floats values, int64_t begin, const Seen& seen, float instead) {
  typedef int32_t Places __attribute__((vector_size(kLanes * sizeof(int32_t))));
  Places place{};
  for (int i = 0; i < kLanes; ++i) place[i] = i;
  const auto from = static_cast<int32_t>(seen.from - begin), to = static_cast<int32_t>(seen.to - begin);
  return (place >= from) & (place < to) ? values : instead - Floats{};
}

inline Floats exp2_negative(Floats x) {
  alignas(64) float values[kLanes];
  store_floats(values, x);
#pragma omp simd
  for (int i = 0; i < kLanes; ++i) values[i] = exp2_negative(values[i]);
  return load_floats(values);
}

// Turns the scores of N rows, `stride` apart, into weights; places a row does not see weigh nothing,
// as far as `used`. Rows side by side, since one alone waits for itself.
template <int N, typename T>
void weigh(const float* scores, int64_t stride, float scale, const Seen* seen, int64_t used,
           T* weights, Partial* parts) {
  int64_t begin = seen[0].from, end = seen[0].to;
  bool alike = true;
  for (int n = 1; n < N; ++n) {
    begin = std::min(begin, seen[n].from), end = std::max(end, seen[n].to);
    alike = alike && seen[n].from == seen[0].from && seen[n].to == seen[0].to;
  }
  begin = begin / kLanes * kLanes;
  const int64_t last = (used + kLanes - 1) / kLanes * kLanes;
  // Which vectors hold places that some row does not see.
  const auto whole = [&](int64_t j) { return alike && j >= seen[0].from && j + kLanes <= seen[0].to; };
  const auto load = [&](int n, int64_t j) { return load_floats(scores + n * stride + j); };
  Floats largest[N], sums[N] = {};
  for (int n = 0; n < N; ++n) largest[n] = kNothing - Floats{};
  for (int64_t j = begin; j < end; j += kLanes) {
    const bool plain = whole(j);
    for (int n = 0; n < N; ++n) {
      const Floats some = plain ? load(n, j) : only_seen(load(n, j), j, seen[n], kNothing);
      largest[n] = some > largest[n] ? some : largest[n];
    }
  }
  float maxima[N];
  for (int n = 0; n < N; ++n)
    maxima[n] = scale * across(largest[n], [](auto a, auto b) { return a > b ? a : b; });
  for (int64_t j = 0; j < begin; j += kLanes)
    for (int n = 0; n < N; ++n) store_floats(weights + n * stride + j, Floats{});
  for (int64_t j = begin; j < end; j += kLanes) {
    const bool plain = whole(j);
    for (int n = 0; n < N; ++n) {
      Floats weight = exp2_negative(load(n, j) * scale - maxima[n]);
      if (!plain) weight = only_seen(weight, j, seen[n], 0);
      sums[n] += weight;
      store_floats(weights + n * stride + j, weight);
    }
  }
  for (int64_t j = std::max(begin, (end + kLanes - 1) / kLanes * kLanes); j < last; j += kLanes)
    for (int n = 0; n < N; ++n) store_floats(weights + n * stride + j, Floats{});
  for (int n = 0; n < N; ++n) {
    const float sum = across(sums[n], [](auto a, auto b) { return a + b; });
    parts[n].maximum = sum == sum ? maxima[n] : sum;  // what is not a number must not be left out
    parts[n].sum = sum;
  }
}

}  // namespace headstream
