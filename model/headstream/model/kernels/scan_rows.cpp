// One pass over logit rows: the largest entries of each, and log(sum(exp)).
//
// Rows are worked on one by one, so a row's result is the same bits whichever rows share the call.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "numbers.h"

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

// The `count` largest entries of a row, in order. Most strides hold nothing above the current
// threshold and are passed over with one comparison.
template <typename T>
void largest(const T* row, int64_t n, int64_t count, std::vector<Entry>& found) {
  const size_t room = 4 * count;
  float threshold = -std::numeric_limits<float>::infinity();
  found.clear();
  auto shrink = [&] {
    std::nth_element(found.begin(), found.begin() + (count - 1), found.end(), before);
    found.resize(count);
    threshold = found[count - 1].value;
  };
  for (int64_t begin = 0; begin < n; begin += kStride) {
    const int64_t end = std::min(n, begin + kStride);
    float highest = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : highest)
    for (int64_t i = begin; i < end; ++i) highest = std::max(highest, load(row[i]));
    if (highest <= threshold && static_cast<int64_t>(found.size()) >= count) continue;
    for (int64_t i = begin; i < end; ++i) {
      const float value = load(row[i]);
      // An entry equal to the threshold has a higher id than those that set it.
      if (value > threshold || static_cast<int64_t>(found.size()) < count) {
        // NaN has no place in an order, and the sorts below need one.
        found.push_back({value == value ? value : -std::numeric_limits<float>::infinity(), i});
        if (found.size() == room) shrink();
      }
    }
  }
  std::sort(found.begin(), found.end(), before);
  found.resize(count);
}

// Blocks are summed in float, and the blocks in double: a row has 10^5 entries.
template <typename T>
float log_sum_exp(const T* row, int64_t n, float maximum) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(n, begin + kBlock);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += exp_negative(load(row[i]) - maximum);
    total += sum;
  }
  return static_cast<float>(maximum + std::log(total));
}

template <typename T>
void scan_rows(const T* logits, int64_t rows, int64_t n, int64_t count, float* values,
               int64_t* ids, float* totals) {
#pragma omp parallel
  {
    std::vector<Entry> found;
    found.reserve(4 * count);
#pragma omp for schedule(dynamic, 1)
    for (int64_t r = 0; r < rows; ++r) {
      const T* row = logits + r * n;
      largest(row, n, count, found);
      for (int64_t i = 0; i < count; ++i) {
        values[r * count + i] = found[i].value;
        ids[r * count + i] = found[i].id;
      }
      totals[r] = log_sum_exp(row, n, found[0].value);
    }
  }
}

}  // namespace

extern "C" void scan_rows_float32(const float* logits, int64_t rows, int64_t n, int64_t count,
                                  float* values, int64_t* ids, float* totals) {
  scan_rows(logits, rows, n, count, values, ids, totals);
}

extern "C" void scan_rows_bfloat16(const headstream::Bf16* logits, int64_t rows, int64_t n,
                                   int64_t count, float* values, int64_t* ids, float* totals) {
  scan_rows(logits, rows, n, count, values, ids, totals);
}
