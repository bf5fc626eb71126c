// What is found in a row of logits while a part of it is near: its largest entries, sums of
// exponentials, and how one of its entries ranks.

#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "tile.h"

namespace headstream {

constexpr int64_t kStride = 64;  // entries compared with the threshold at once
constexpr float kLowest = -std::numeric_limits<float>::infinity();

// Entries [first, first + count) of a row.
struct Part {
  const float* values;
  int64_t first, count;
};

struct Entry {
  float value;
  int64_t id;
};

// Larger first; among equals the lower id.
inline bool before(const Entry& a, const Entry& b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

inline float largest_lane(Floats x) {
  float highest = x[0];
  for (int i = 1; i < kLanes; ++i) highest = std::max(highest, x[i]);
  return highest;
}

// Bit i is set where lane i is above the bound.
inline uint32_t lanes_above(Floats x, float bound) {
#ifdef __AVX512F__
  return _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(bound), _CMP_GT_OQ);
#else
  uint32_t lanes = 0;
  for (int i = 0; i < kLanes; ++i) lanes |= static_cast<uint32_t>(x[i] > bound) << i;
  return lanes;
#endif
}

// The `count` largest entries of parts that come in the order of the row. Most strides hold nothing
// above the threshold and are passed over with one comparison.
struct Largest {
  size_t count;
  std::vector<Entry> found;
  float threshold = kLowest;

  explicit Largest(size_t wanted) : count(wanted) { found.reserve(4 * count); }

  void shrink() {
    if (found.size() <= count) return;
    std::nth_element(found.begin(), found.begin() + (count - 1), found.end(), before);
    found.resize(count);
    threshold = found[count - 1].value;
  }

  // Returns the highest entry of the part.
  float look(const Part& part) {
    Floats highest = kLowest - Floats{};
    int64_t i = 0;
    for (; i + kStride <= part.count; i += kStride) {
      Floats peak = load_floats(part.values + i);
      for (int64_t j = kLanes; j < kStride; j += kLanes)
        peak = larger(load_floats(part.values + i + j), peak);
      highest = larger(peak, highest);
      if (found.size() < count) {
        fill(part, i, i + kStride);
      } else if (lanes_above(peak, threshold)) {
        for (int64_t j = i; j < i + kStride; j += kLanes) pick(part, j);
      }
    }
    fill(part, i, part.count);
    float rest = largest_lane(highest);
    for (; i < part.count; ++i) rest = std::max(rest, part.values[i]);
    return rest;
  }

  // Takes what is above the threshold of the vector at `begin`. An entry equal to the threshold has
  // a higher id than those that set it.
  void pick(const Part& part, int64_t begin) {
    uint32_t lanes = lanes_above(load_floats(part.values + begin), threshold);
    for (; lanes != 0; lanes &= lanes - 1) take(part, begin + __builtin_ctz(lanes));
  }

  // The same one by one, and everything while there are too few.
  void fill(const Part& part, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      if (part.values[i] > threshold || found.size() < count) take(part, i);
  }

  void take(const Part& part, int64_t i) {
    const float value = part.values[i];
    // NaN has no place in an order, and the sorts need one.
    found.push_back({value == value ? value : kLowest, part.first + i});
    if (found.size() == 4 * count) shrink();
  }
};

// sum(exp(x - maximum)) and sum(exp(x - maximum) (x - maximum)) of parts: each part in float while
// it is near, the parts in double, for a row has 10^5 entries.
struct ExpSums {
  float maximum = kLowest;
  double total = 0, weighted = 0;

  // The same sums counted from a maximum that is as high or higher.
  ExpSums from(float higher) const {
    if (!(higher > maximum) || total == 0) return {std::max(higher, maximum), total, weighted};
    const double shift = static_cast<double>(maximum) - higher, scale = std::exp(shift);
    return {higher, total * scale, (weighted + total * shift) * scale};
  }

  void add(const ExpSums& other) {
    const float highest = std::max(maximum, other.maximum);
    const ExpSums mine = from(highest), its = other.from(highest);
    *this = {highest, mine.total + its.total, mine.weighted + its.weighted};
  }

  // `weigh`: whether the weighted sum is wanted as well.
  void add(const Part& part, float highest, bool weigh) {
    ExpSums sums{highest, 0, 0};
    if (highest == kLowest) {  // nothing, or not numbers
      for (int64_t i = 0; i < part.count; ++i)
        if (part.values[i] != part.values[i]) sums.total = part.values[i];
    } else if (weigh) {
      sum<true>(part, sums);
    } else {
      sum<false>(part, sums);
    }
    add(sums);
  }

  template <bool Weigh>
  static void sum(const Part& part, ExpSums& sums) {
    float total = 0, weighted = 0;
#pragma omp simd reduction(+ : total, weighted)
    for (int64_t i = 0; i < part.count; ++i) {
      const float below = std::max(part.values[i] - sums.maximum, -87.0f), e = exp_negative(below);
      total += e;
      if constexpr (Weigh) weighted += e * below;
    }
    sums.total = total, sums.weighted = weighted;
  }

  double log_total() const { return maximum + std::log(total); }
  double entropy() const { return std::log(total) - weighted / total; }  // nats
};

// How many entries stand before one of them in the order.
struct Rank {
  Entry entry;
  int64_t before_it = 0;

  void add(const Part& part) {
    int32_t higher = 0;
#pragma omp simd reduction(+ : higher)
    for (int64_t i = 0; i < part.count; ++i) higher += part.values[i] > entry.value;
    // Equal ones count where their id is lower.
    const int64_t lower_ids = std::min(part.count, entry.id - part.first);
    int32_t equal = 0;
#pragma omp simd reduction(+ : equal)
    for (int64_t i = 0; i < lower_ids; ++i) equal += part.values[i] == entry.value;
    before_it += higher + equal;
  }
};

}  // namespace headstream
