// Softmax over a row's keys, chunk by chunk (Milakov and Gimelshein 2018, arXiv:1805.02867).

#pragma once

#include <limits>

#include "tile.h"

namespace headstream {

constexpr int64_t kChunk = 128;  // keys, counted from the sequence's position 0
constexpr float kNothing = -std::numeric_limits<float>::infinity();

// softmax(scores) V of some keys: the largest score, the sum of exp(score - maximum), and the
// values weighted by that exponential.
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
    std::copy_n(part.values, width, total.values);
    return;
  }
  const float maximum = std::max(total.maximum, part.maximum);
  const float before = exp_negative(total.maximum - maximum);
  const float after = exp_negative(part.maximum - maximum);
  total.maximum = maximum;
  total.sum = total.sum * before + part.sum * after;
#pragma omp simd
  for (int64_t i = 0; i < width; ++i)
    total.values[i] = total.values[i] * before + part.values[i] * after;
}

// All lanes joined by f: halves, then quarters and so on, in one fixed order.
template <typename F>
inline float across(Floats lanes, F&& f) {
  alignas(64) float values[kLanes];
  store_floats(values, lanes);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) values[i] = f(values[i], values[i + half]);
  return values[0];
}

// Turns a row's scores into weights; places of the chunk outside [from, to) weigh nothing.
template <typename T>
Partial weigh(float* scores, float scale, int64_t from, int64_t to, T* weights, float* values) {
  // Whole vectors from here to there; the lane a key is summed in does not depend on them.
  const int64_t begin = from / kLanes * kLanes, end = (to + kLanes - 1) / kLanes * kLanes;
  std::fill(scores + begin, scores + from, kNothing);
  std::fill(scores + to, scores + end, kNothing);
  std::fill(weights, weights + begin, T{});
  std::fill(weights + end, weights + kChunk, T{});
  Floats largest = kNothing - Floats{};
  for (int64_t j = begin; j < end; j += kLanes) {
    const Floats some = load_floats(scores + j) * scale;
    store_floats(scores + j, some);
    largest = some > largest ? some : largest;
  }
  const float maximum = across(largest, [](float a, float b) { return std::max(a, b); });
  Floats sums{};
  for (int64_t j = begin; j < end; j += kLanes) {
    alignas(64) float weight[kLanes];
#pragma omp simd
    for (int64_t i = 0; i < kLanes; ++i)
      weight[i] = scores[j + i] == kNothing ? 0.0f : exp_negative(scores[j + i] - maximum);
    sums += load_floats(weight);
    store_floats(weights + j, load_floats(weight));
  }
  return {maximum, across(sums, [](float a, float b) { return a + b; }), values};
}

}  // namespace headstream
