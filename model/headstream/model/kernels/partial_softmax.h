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

// Turns a row's scores into weights; places outside [from, to) weigh nothing, as far as `used`.
template <typename T>
Partial weigh(float* scores, float scale, int64_t from, int64_t to, int64_t used, T* weights,
              float* values) {
  // Whole vectors from here to there; the lane a key is summed in does not depend on them.
  const auto whole = [](int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; };
  const int64_t begin = from / kLanes * kLanes, end = from < to ? whole(to) : begin;
  if (begin < from) std::fill(scores + begin, scores + from, kNothing);
  if (to < end) std::fill(scores + to, scores + end, kNothing);
  if (0 < begin) std::fill(weights, weights + begin, T{});
  if (end < whole(used)) std::fill(weights + end, weights + whole(used), T{});
  Floats largest = kNothing - Floats{};
  for (int64_t j = begin; j < end; j += kLanes) {
    const Floats some = load_floats(scores + j);
    largest = some > largest ? some : largest;
  }
  const float maximum = scale * across(largest, [](auto a, auto b) { return a > b ? a : b; });
  Floats sums{};
  for (int64_t j = begin; j < end; j += kLanes) {
    alignas(64) float weight[kLanes];
#pragma omp simd
    for (int64_t i = 0; i < kLanes; ++i) weight[i] = exp2_negative(scores[j + i] * scale - maximum);
    sums += load_floats(weight);
    store_floats(weights + j, load_floats(weight));
  }
  const float sum = across(sums, [](auto a, auto b) { return a + b; });
  return {sum == sum ? maximum : sum, sum, values};  // what is not a number must not be left out
}

}  // namespace headstream
