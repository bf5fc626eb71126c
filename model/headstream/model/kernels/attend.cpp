// Attention of any rows over a block pool, for CPUs.
//
//   z[r, h, :] = sum_j softmax_j(scale * q[r, h, :] . K[j, g, :]) V[j, g, :]
//
// for each row r over the keys j that it sees, where g is the KV head of query head h. Keys are cut
// into chunks of kChunk, counted from the sequence's position 0. A chunk gives a partial softmax
// (partial_softmax.h), and partials are merged in the order of the chunks. Keys a row does not see
// weigh exactly zero. So a row is the same bits whichever rows share the call, whether it is part of
// a prompt, of a chunk of one, or decoded alone, and however many threads run.
//
// All query heads of a KV head, and neighbouring positions, are the rows of one tile, so that keys
// and values are read once for all of them.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "attend_plan.h"
#include "partial_softmax.h"

namespace {

using namespace headstream;

constexpr int64_t kWidest = 512;    // of a head
constexpr int kSoftmaxRows = 4;     // turned into weights at once
constexpr int kScorePanels = 2;     // panels of keys multiplied at once
constexpr int kScoreRows = kRows * kPanels / kScorePanels;

// A thread's own memory; not cleared, since all of it is written before it is read.
template <typename T>
struct Scratch {
  std::unique_ptr<T[]> query, weights;              // [kTileRows, width], [kTileRows, kChunk]
  std::unique_ptr<float[]> scores, values, total;   // [kTileRows, kChunk], 2 of [kTileRows, width]

  explicit Scratch(int64_t width)
      : query(new T[kTileRows * width]), weights(new T[kTileRows * kChunk]),
        scores(new float[kTileRows * kChunk]), values(new float[kTileRows * width]),
        total(new float[kTileRows * width]) {}
};

// Keys [first, end) of the chunk that begins at `base`; first is a multiple of 16. Scores and weights
// stand in their place in the chunk, whatever a tile can leave out of it.
struct Keys {
  int64_t base, first, end;
};

// The query rows of a task, `stride` numbers apart.
template <typename T>
struct Queries {
  const T* rows;
  int64_t stride;
};

// scores[r, j - base] = q[r] . K[j]
template <typename T>
void score(const Shape& s, const Task& task, const Queries<T>& queries, const T* k_pool,
           const T* v_pool, const Keys& keys, Scratch<T>& scratch) {
  const int64_t width = s.kv.width(), rows = task.positions * s.group();
  const int64_t parts = (rows + kScoreRows - 1) / kScoreRows;
  for (int64_t key = keys.first; key < keys.end;) {
    const int64_t offset = key % s.kv.block_size, block = task.blocks[key / s.kv.block_size];
    const int64_t left = std::min(keys.end - key, s.kv.block_size - offset);
    const int64_t place = s.kv.key_panel(block, task.kv_head, offset);
    const int64_t panels = std::min<int64_t>((left + kLanes - 1) / kLanes, kScorePanels);
    with_constant<kScorePanels>(panels, [&](auto c) {
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t row = part_bound(rows, parts, part);
        with_constant<kScoreRows>(part_bound(rows, parts, part + 1) - row, [&](auto r) {
          Floats acc[r()][c()] = {};
          // The values of these keys are as many lines, and wanted next.
          const Ahead<T> values{v_pool + place, kLanes * width, part == 0 ? panels : 0};
          multiply<T, r(), c()>(acc, queries.rows + row * queries.stride, queries.stride,
                                k_pool + place, kLanes * width, width / kDepth<T>, values);
          float* to = scratch.scores.get() + row * kChunk + key - keys.base;
          for (int i = 0; i < r(); ++i)
            for (int j = 0; j < c(); ++j) store_floats(to + i * kChunk + j * kLanes, acc[i][j]);
        });
      }
    });
    key += panels * kLanes;
  }
}

// sums[r] = sum_j weights[r, j - base] V[j]
template <typename T>
void sum_values(const Shape& s, const Task& task, const T* v_pool, const Keys& keys,
                const Scratch<T>& scratch, float* sums) {
  const int64_t width = s.kv.width(), rows = task.positions * s.group();
  const int64_t parts = (rows + kRows - 1) / kRows, panels = width / kLanes;
  for (int64_t panel = 0; panel < panels; panel += kPanels)
    with_constant<kPanels>(std::min<int64_t>(kPanels, panels - panel), [&](auto c) {
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t row = part_bound(rows, parts, part);
        with_constant<kRows>(part_bound(rows, parts, part + 1) - row, [&](auto r) {
          Floats acc[r()][c()] = {};
          for (int64_t key = keys.first; key < keys.end;) {
            const int64_t offset = key % s.kv.block_size, block = task.blocks[key / s.kv.block_size];
            const int64_t stop = std::min(keys.end, key + s.kv.block_size - offset);
            const T* weights = scratch.weights.get() + row * kChunk + key - keys.base;
            const T* values = v_pool + s.kv.value_panel(block, task.kv_head, offset);
            multiply<T, r(), c()>(acc, weights, kChunk, values + panel * s.kv.value_stride(),
                                  s.kv.value_stride(), (stop - key + kDepth<T> - 1) / kDepth<T>);
            key = stop;
          }
          float* to = sums + row * width + panel * kLanes;
          for (int i = 0; i < r(); ++i)
            for (int j = 0; j < c(); ++j) store_floats(to + i * width + j * kLanes, acc[i][j]);
        });
      }
    });
}

// The rows of a task as the tile reads them: where they are, or copied beside each other.
template <typename T>
Queries<T> find_queries(const Shape& s, const Task& task, const T* q, Scratch<T>& scratch) {
  const int64_t d = s.kv.d_head, width = s.kv.width(), group = s.group();
  if (group == 1 && d == width) return {q + task.row * s.q_stride + task.kv_head * d, s.q_stride};
  for (int64_t row = 0; row < task.positions * group; ++row) {
    const int64_t head = task.kv_head * group + row % group;
    const T* from = q + (task.row + row / group) * s.q_stride + head * d;
    T* to = scratch.query.get() + row * width;
#pragma omp simd  // a call that copies would cost more
    for (int64_t i = 0; i < d; ++i) to[i] = from[i];
    if (d < width) std::fill(to + d, to + width, T{});
  }
  return {scratch.query.get(), width};
}

// What each row of a task sees of a chunk becomes weights, and the rest weighs nothing.
template <typename T>
void weigh_chunk(const Shape& s, const Task& task, const Keys& keys, Scratch<T>& scratch,
                 Partial* parts) {
  const int64_t rows = task.positions * s.group();
  Seen seen[kTileRows];
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t position = task.position + row / s.group();
    const int64_t from = std::clamp<int64_t>(s.first_key(position) - keys.base, 0, kChunk);
    const int64_t to = s.end_key(position, task.context) - keys.base;
    seen[row] = {from, std::clamp<int64_t>(to, from, kChunk)};
  }
  for (int64_t row = 0; row < rows; row += kSoftmaxRows)
    with_constant<kSoftmaxRows>(std::min<int64_t>(kSoftmaxRows, rows - row), [&](auto count) {
      weigh<count()>(scratch.scores.get() + row * kChunk, kChunk, s.scale, seen + row,
                     keys.end - keys.base, scratch.weights.get() + row * kChunk, parts + row);
    });
}

// Merges the task's chunks in order into `totals`.
template <typename T>
void attend_chunks(const Shape& s, const Task& task, const T* q, const T* k_pool, const T* v_pool,
                   Scratch<T>& scratch, Partial* totals) {
  const int64_t width = s.kv.width(), rows = task.positions * s.group();
  const Queries<T> queries = find_queries(s, task, q, scratch);
  const int64_t seen = s.first_key(task.position);
  const int64_t last = s.end_key(task.position + task.positions - 1, task.context);
  for (int64_t chunk = task.begin; chunk < task.end; ++chunk) {
    const int64_t base = chunk * kChunk;
    const Keys keys{base, std::max(base, seen / kLanes * kLanes), std::min(base + kChunk, last)};
    const bool first = chunk == task.begin;  // it needs no merging
    float* values = first ? scratch.total.get() : scratch.values.get();
    Partial others[kTileRows], *parts = first ? totals : others;
    for (int64_t row = 0; row < rows; ++row) parts[row].values = values + row * width;
    score(s, task, queries, k_pool, v_pool, keys, scratch);
    weigh_chunk(s, task, keys, scratch, parts);
    sum_values(s, task, v_pool, keys, scratch, values);
    if (first) continue;
    for (int64_t row = 0; row < rows; ++row) merge(totals[row], parts[row], width);
  }
}

template <typename T>
void finish(const Shape& s, int64_t row, int64_t head, const Partial& total, T* z) {
  T* out = z + (row * s.n_heads + head) * s.kv.d_head;
  for (int64_t i = 0; i < s.kv.d_head; ++i) store(out + i, total.values[i] / total.sum);
}

template <typename T>
int attend(const T* q, const T* k, const T* v, T* k_pool, T* v_pool, T* z, const Step& step,
           const Shape& s) {
  const int64_t width = s.kv.width(), group = s.group(), record = width + 2;
  if (width > kWidest || s.kv.block_size % kLanes != 0 || group > kTileRows) return 1;
  write_kv(s.kv, k, v, s.kv_stride, step.rows, step.slots, k_pool, v_pool);
  int64_t count = 0;
  const std::vector<Task> tasks = plan(s, step, count);
  std::vector<float> partials(count * record);  // maximum, sum, values of each
#pragma omp parallel
  {
    Scratch<T> scratch(width);
    Partial totals[kTileRows];
#pragma omp for schedule(dynamic, 1)
    for (int64_t index = 0; index < static_cast<int64_t>(tasks.size()); ++index) {
      const Task& task = tasks[tasks.size() - 1 - index];  // long contexts first
      attend_chunks(s, task, q, k_pool, v_pool, scratch, totals);
      for (int64_t row = 0; row < task.positions * group; ++row) {
        if (task.partial < 0) {
          finish(s, task.row + row / group, task.kv_head * group + row % group, totals[row], z);
          continue;
        }
        float* to = partials.data() + (task.partial + row) * record;
        to[0] = totals[row].maximum;
        to[1] = totals[row].sum;
        std::copy_n(totals[row].values, width, to + 2);
      }
    }
    // The chunks of a tile follow one another; the first of them merges them all.
#pragma omp for schedule(dynamic, 1)
    for (int64_t index = 0; index < static_cast<int64_t>(tasks.size()); ++index) {
      const Task& task = tasks[index];
      if (task.partial < 0) continue;
      auto same = [&](const Task& other) {
        return other.row == task.row && other.kv_head == task.kv_head;
      };
      if (index > 0 && same(tasks[index - 1])) continue;
      for (int64_t row = 0; row < task.positions * group; ++row) {
        Partial total{kNothing, 0, scratch.total.get()};
        for (size_t next = index; next < tasks.size() && same(tasks[next]); ++next) {
          float* from = partials.data() + (tasks[next].partial + row) * record;
          merge(total, {from[0], from[1], from + 2}, width);
        }
        finish(s, task.row + row / group, task.kv_head * group + row % group, total, z);
      }
    }
  }
  return 0;
}

}  // namespace

// Both write k, v into the pool and attend with q. They return 0, or 1 where the shape is not
// supported.
extern "C" int attend_float32(const float* q, const float* k, const float* v, float* k_pool, float* v_pool, float* z,
    const int64_t* slots, const int32_t* cu_seqlens, const int32_t* contexts,
    const int32_t* block_table, int64_t rows, int64_t seqs, int64_t table_stride,
    int64_t q_stride, int64_t kv_stride, int64_t n_heads, int64_t n_kv_heads, int64_t d_head,
    int64_t block_size, int64_t window, int64_t causal, float scale) {
  return attend(q, k, v, k_pool, v_pool, z, Step{slots, cu_seqlens, contexts, block_table, rows, seqs},
                Shape{n_heads, {n_kv_heads, d_head, block_size}, q_stride, kv_stride, table_stride,
                      window, causal != 0, scale * kLog2E});
}

extern "C" int attend_bfloat16(const headstream::Bf16* q, const headstream::Bf16* k, const headstream::Bf16* v, headstream::Bf16* k_pool, headstream::Bf16* v_pool, headstream::Bf16* z,
    const int64_t* slots, const int32_t* cu_seqlens, const int32_t* contexts,
    const int32_t* block_table, int64_t rows, int64_t seqs, int64_t table_stride,
    int64_t q_stride, int64_t kv_stride, int64_t n_heads, int64_t n_kv_heads, int64_t d_head,
    int64_t block_size, int64_t window, int64_t causal, float scale) {
  return attend(q, k, v, k_pool, v_pool, z, Step{slots, cu_seqlens, contexts, block_table, rows, seqs},
                Shape{n_heads, {n_kv_heads, d_head, block_size}, q_stride, kv_stride, table_stride,
                      window, causal != 0, scale * kLog2E});
}
