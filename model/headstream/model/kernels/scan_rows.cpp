// One pass over logit rows: the largest entries of each, and log(sum(exp)).
//
// Rows are worked on one by one, so a row's result is the same bits whichever rows share the call.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "tile.h"

namespace {

using namespace headstream;

constexpr int64_t kStride = 64;  // entries compared with the threshold at once
constexpr int64_t kBlock = 2048;  // entries summed in float

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

inline bool any_above(Floats x, float bound) {
#ifdef __AVX512F__
  return _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(bound), _CMP_GT_OQ) != 0;
#else
  return largest_lane(x) > bound;
#endif
}

// The `count` largest entries seen so far. Most strides hold nothing above the current threshold and
// are passed over with one comparison.
struct Largest {
  size_t count;
  std::vector<Entry> found;
  float threshold = -std::numeric_limits<float>::infinity();

  explicit Largest(int64_t wanted) : count(wanted) { found.reserve(4 * count); }

  void clear() {
    found.clear();
    threshold = -std::numeric_limits<float>::infinity();
  }

  void shrink() {
    std::nth_element(found.begin(), found.begin() + (count - 1), found.end(), before);
    found.resize(count);
    threshold = found[count - 1].value;
  }

  // Looks through entries [begin, end) of a row and returns the highest of them.
  float look(const float* row, int64_t begin, int64_t end) {
    Floats highest = -std::numeric_limits<float>::infinity() - Floats{};
    int64_t i = begin;
    for (; i + kStride <= end; i += kStride) {
      Floats peak = load_floats(row + i);
      for (int64_t j = kLanes; j < kStride; j += kLanes)
        peak = larger(load_floats(row + i + j), peak);
      highest = larger(peak, highest);
      if (found.size() < count || any_above(peak, threshold)) pick(row, i, i + kStride);
    }
    float rest = largest_lane(highest);
    for (int64_t j = i; j < end; ++j) rest = std::max(rest, row[j]);
    pick(row, i, end);
    return rest;
  }

  void pick(const float* row, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      // An entry equal to the threshold has a higher id than those that set it.
      if (row[i] > threshold || found.size() < count) {
        // NaN has no place in an order, and the sorts need one.
        found.push_back({row[i] == row[i] ? row[i] : -std::numeric_limits<float>::infinity(), i});
        if (found.size() == 4 * count) shrink();
      }
    }
  }

  void sort() {
    std::sort(found.begin(), found.end(), before);
    found.resize(count);
  }
};

// log(sum(exp(x))) of blocks that come one after the other, each summed in float while it is near,
// and the blocks in double: a row has 10^5 entries.
struct LogSumExp {
  float maximum = -std::numeric_limits<float>::infinity();
  double total = 0;

  void add(const float* row, int64_t begin, int64_t end, float highest) {
    if (highest > maximum) {
      if (total > 0) total *= std::exp(static_cast<double>(maximum) - highest);
      maximum = highest;
    }
    if (maximum == -std::numeric_limits<float>::infinity()) {  // nothing yet, or not numbers
      for (int64_t i = begin; i < end; ++i) total += row[i] != row[i] ? row[i] : 0;
      return;
    }
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += exp_negative(row[i] - maximum);
    total += sum;
  }

  float value() const { return static_cast<float>(maximum + std::log(total)); }
};

void scan_row(const float* row, int64_t n, Largest& largest, LogSumExp& sum) {
  largest.clear();
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(n, begin + kBlock);
    sum.add(row, begin, end, largest.look(row, begin, end));
  }
  largest.sort();
}

}  // namespace

extern "C" void scan_rows(const float* logits, int64_t rows, int64_t n, int64_t count,
                          float* values, int64_t* ids, float* totals) {
#pragma omp parallel
  {
    Largest largest(count);
#pragma omp for schedule(dynamic, 1)
    for (int64_t r = 0; r < rows; ++r) {
      LogSumExp sum;
      scan_row(logits + r * n, n, largest, sum);
      for (int64_t i = 0; i < count; ++i) {
        values[r * count + i] = largest.found[i].value;
        ids[r * count + i] = largest.found[i].id;
      }
      totals[r] = sum.value();
    }
  }
}
