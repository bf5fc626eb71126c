// Logit rows that are looked through as they are made, and kept only where somebody wants all of
// them: a row over 262,144 tokens is 1 MiB, which need not go to memory and back for its largest
// entries.
//
// The columns are cut into spans, one after the other for each thread, and those into segments. A
// segment of all rows lies in a near cache between the product (product.h) and the scan
// (row_scan.h). Sums go from part to part in the order of the row, so a row's results are the same
// bits in any batch and for any number of threads.

#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include "product.h"
#include "row_scan.h"

namespace headstream {

constexpr int64_t kRowBlock = 128;         // rows that stay in the second-level cache
constexpr int64_t kSegment = 8 * kGroup;   // columns that lie there with them
constexpr int64_t kSpan = 4 * kSegment;    // columns a thread takes at once

// What is asked of R rows, and where it goes.
struct Request {
  float softcap;           // logits become softcap * tanh(logits / softcap); 0: they stay
  int64_t count;           // of the largest entries
  const int64_t* kept_at;  // [R] the row of `kept` that keeps all logits, or -1
  const int64_t* targets;  // [R] an entry whose rank is wanted, or -1; null: none at all
  float* kept;             // [., V]
  float* values;           // [R, count] largest first
  int64_t* ids;            // [R, count]
  float* log_totals;       // [R]
  float* target_logits;    // [R]
  int64_t* ranks;          // [R]
  float* entropies;        // [R]
};

void cap(float* logits, int64_t count, float softcap) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float e = exp_negative(-2 * std::fabs(logits[i] / softcap));
    logits[i] = std::copysign(softcap * (1 - e) / (1 + e), logits[i]);
  }
}

void keep(const Part& part, float* row) {
  float* to = row + part.first;
  int64_t i = 0;
  if (aligned(to))
    for (; i + kLanes <= part.count; i += kLanes)
      store_past_caches(to + i, load_floats(part.values + i));
  std::copy(part.values + i, part.values + part.count, to + i);
}

// What one thread knows of a row.
struct Seen {
  Largest largest;
  Rank rank;
};

template <typename T, typename W>
class Unembedding {
 public:
  Unembedding(const T* x, const W* panels, const Product& product, const Request& request)
      : x_(x), panels_(panels), p_(product), request_(request), spans_((p_.columns + kSpan - 1) / kSpan) {}

  void run() {
    const std::vector<Entry> targets = find_targets();
    std::vector<Seen> all;
    sums_.assign(p_.rows * spans_, {});
#pragma omp parallel
    {
      std::vector<Seen> seen;
      for (int64_t r = 0; r < p_.rows; ++r) seen.push_back({Largest(request_.count), {targets[r]}});
      std::vector<float> logits(p_.rows * kSegment + kLanes);  // [rows, kSegment]
      const auto room = room_for<T, W>(p_);
#pragma omp for schedule(static)
      for (int64_t span = 0; span < spans_; ++span)
        for (int64_t begin = span * kSpan; begin < std::min((span + 1) * kSpan, p_.columns); begin += kSegment)
          segment(begin, span, align(logits.data()), room, seen);
#pragma omp critical
      for (Seen& row : seen) all.push_back(std::move(row));
    }
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < p_.rows; ++r) finish(r, targets[r], all);
  }

 private:
  using Room = typename Group<T, W>::Room;

  static float* align(float* from) {
    while (!aligned(from)) ++from;
    return from;
  }

  // The logits of the targets, each by the tile of its own row: the same bits as in the whole row.
  std::vector<Entry> find_targets() {
    std::vector<Entry> targets(p_.rows, {kLowest, -1});
    if (request_.targets == nullptr) return targets;
    const Room room(p_.depth, false);
    for (int64_t r = 0; r < p_.rows; ++r) {
      const int64_t id = request_.targets[r];
      if (id < 0) continue;
      float logits[kLanes] = {};
      const int64_t panel = id / kLanes;
      const Group<T, W> group(panels_ + panel * p_.depth * kLanes, p_.depth, false, room);
      multiply_tile<Plain, T, W, float, 1, 1>(p_, x_ + r * p_.x_stride, group, false, {}, logits,
                                              panel * kLanes);
      if (request_.softcap != 0) cap(logits, kLanes, request_.softcap);
      targets[r] = {logits[id % kLanes], id};
    }
    return targets;
  }

  // Makes the logits of the columns from `begin` on, for all rows, and looks through them.
  void segment(int64_t begin, int64_t span, float* logits, const Room& room,
               std::vector<Seen>& seen) {
    const int64_t count = std::min(kSegment, p_.columns - begin);
    for (int64_t column = 0; column < count; column += kGroup)
      multiply_group<Plain>(p_, x_, panels_, (begin + column) / kGroup, logits + column, room);
    for (int64_t r = 0; r < p_.rows; ++r) {
      float* row = logits + r * kSegment;
      if (request_.softcap != 0) cap(row, count, request_.softcap);
      const Part part{row, begin, count};
      const bool ranked = seen[r].rank.entry.id >= 0;
      sums_[r * spans_ + span].add(part, seen[r].largest.look(part), ranked);
      if (ranked) seen[r].rank.add(part);
      if (request_.kept_at[r] >= 0) keep(part, request_.kept + request_.kept_at[r] * p_.columns);
    }
  }

  // Puts together what the threads know of row r; `all` holds all rows of one thread after another.
  void finish(int64_t r, const Entry& target, const std::vector<Seen>& all) {
    Largest largest(request_.count);
    int64_t rank = 0;
    for (size_t i = r; i < all.size(); i += p_.rows) {
      const auto& found = all[i].largest.found;
      largest.found.insert(largest.found.end(), found.begin(), found.end());
      rank += all[i].rank.before_it;
    }
    largest.shrink();
    std::sort(largest.found.begin(), largest.found.end(), before);
    for (int64_t i = 0; i < request_.count; ++i) {
      request_.values[r * request_.count + i] = largest.found[i].value;
      request_.ids[r * request_.count + i] = largest.found[i].id;
    }
    ExpSums sums;
    for (int64_t span = 0; span < spans_; ++span) sums.add(sums_[r * spans_ + span]);
    request_.log_totals[r] = sums.log_total();
    if (target.id < 0) return;
    request_.target_logits[r] = target.value;
    request_.ranks[r] = rank;
    request_.entropies[r] = sums.entropy();
  }

  const T* x_;
  const W* panels_;
  const Product& p_;
  const Request& request_;
  const int64_t spans_;
  std::vector<ExpSums> sums_;  // [rows, spans]
};

// The requests of rows from `begin` on.
Request from_row(Request request, int64_t begin) {
  request.kept_at += begin;
  request.values += begin * request.count;
  request.ids += begin * request.count;
  request.log_totals += begin;
  if (request.targets == nullptr) return request;
  request.targets += begin;
  request.target_logits += begin;
  request.ranks += begin;
  request.entropies += begin;
  return request;
}

template <typename T, typename W>
int unembed(const T* x, const W* panels, const float* scale, int64_t rows, int64_t x_stride,
            int64_t depth, int64_t columns, const Request& request) {
  if (depth % kDepth<T> != 0) return 1;
  for (int64_t begin = 0; begin < rows; begin += kRowBlock) {
    const Product p{std::min(kRowBlock, rows - begin), x_stride, depth, columns, scale, nullptr, kSegment};
    Unembedding<T, W>(x + begin * x_stride, panels, p, from_row(request, begin)).run();
  }
  return 0;
}

}  // namespace headstream

// All return 0, or 1 where the shape is not supported. `scale` is padded to whole vectors. T: of x,
// W: of the panels.
#define HEADSTREAM_UNEMBED(SUFFIX, T, W)                                                          \
  extern "C" int unembed_##SUFFIX(                                                                \
      const T* x, const W* panels, const float* scale, int64_t rows, int64_t x_stride,            \
      int64_t depth, int64_t columns, float softcap, int64_t count, const int64_t* kept_at,       \
      const int64_t* targets, float* kept, float* values, int64_t* ids, float* log_totals,        \
      float* target_logits, int64_t* ranks, float* entropies) {                                   \
    return headstream::unembed(x, panels, scale, rows, x_stride, depth, columns,                  \
                   {softcap, count, kept_at, targets, kept, values, ids, log_totals,              \
                    target_logits, ranks, entropies});                                            \
  }
