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

#include "kv_layout.h"
#include "partial_softmax.h"

namespace {

using namespace headstream;

constexpr int64_t kTileRows = 48;   // query rows: positions times the group
constexpr int64_t kWidest = 512;    // of a head
constexpr int kScorePanels = 2;     // panels of keys multiplied at once
constexpr int kScoreRows = kRows * kPanels / kScorePanels;

struct Shape {
  int64_t n_heads;
  KvLayout kv;
  int64_t q_stride, kv_stride;  // between the rows of q, and of k and v
  int64_t table_stride;
  int64_t window;  // 0: all keys
  bool causal;     // otherwise a row sees keys behind it too, as far as those before it
  float scale;  // of scores, times log2(e): weights are powers of two
  int64_t group() const { return n_heads / kv.n_kv_heads; }

  // The keys [first_key, end_key) that the row at `position` sees, of a sequence that has `context`.
  int64_t first_key(int64_t position) const {
    return window > 0 ? std::max<int64_t>(0, position + 1 - window) : 0;
  }
  int64_t end_key(int64_t position, int64_t context) const {
    if (causal) return position + 1;
    return window > 0 ? std::min(context, position + window) : context;
  }
};

// One unit of work: the rows of `positions` tokens from row `row` on, for one KV head, over chunks
// [begin, end).
struct Task {
  int64_t row, position, positions, kv_head;
  int64_t context;  // keys of the sequence
  const int32_t* blocks;
  int64_t begin, end;
  int64_t partial;  // where the partial softmax goes; -1: the chunks are all there are
};

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

// scores[r, j - base] = q[r] . K[j]
template <typename T>
void score(const Shape& s, const Task& task, const T* k_pool, const T* v_pool, const Keys& keys,
           Scratch<T>& scratch) {
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
          multiply<T, r(), c()>(acc, scratch.query.get() + row * width, width, k_pool + place,
                                kLanes * width, width / kDepth<T>, values);
          float* to = scratch.scores.get() + row * kChunk + key - keys.base;
          for (int i = 0; i < r(); ++i)
            for (int j = 0; j < c(); ++j) store_floats(to + i * kChunk + j * kLanes, acc[i][j]);
        });
      }
    });
    key += panels * kLanes;
  }
}

// values[r] = sum_j weights[r, j - base] V[j]
template <typename T>
void sum_values(const Shape& s, const Task& task, const T* v_pool, const Keys& keys,
                Scratch<T>& scratch) {
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
          float* to = scratch.values.get() + row * width + panel * kLanes;
          for (int i = 0; i < r(); ++i)
            for (int j = 0; j < c(); ++j) store_floats(to + i * width + j * kLanes, acc[i][j]);
        });
      }
    });
}

template <typename T>
void copy_query(const Shape& s, const Task& task, const T* q, Scratch<T>& scratch) {
  const int64_t d = s.kv.d_head, width = s.kv.width(), group = s.group();
  for (int64_t row = 0; row < task.positions * group; ++row) {
    const int64_t head = task.kv_head * group + row % group;
    const T* from = q + (task.row + row / group) * s.q_stride + head * d;
    T* to = scratch.query.get() + row * width;
#pragma omp simd  // a call that copies would cost more
    for (int64_t i = 0; i < d; ++i) to[i] = from[i];
    if (d < width) std::fill(to + d, to + width, T{});
  }
}

// Merges the task's chunks in order into `totals`.
template <typename T>
void attend_chunks(const Shape& s, const Task& task, const T* q, const T* k_pool, const T* v_pool,
                   Scratch<T>& scratch, Partial* totals) {
  const int64_t width = s.kv.width(), rows = task.positions * s.group();
  copy_query(s, task, q, scratch);
  const int64_t seen = s.first_key(task.position);
  const int64_t last = s.end_key(task.position + task.positions - 1, task.context);
  for (int64_t chunk = task.begin; chunk < task.end; ++chunk) {
    const int64_t base = chunk * kChunk;
    const Keys keys{base, std::max(base, seen / kLanes * kLanes), std::min(base + kChunk, last)};
    score(s, task, k_pool, v_pool, keys, scratch);
    Partial parts[kTileRows];
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t position = task.position + row / s.group();
      const int64_t from = std::clamp<int64_t>(s.first_key(position) - base, 0, kChunk);
      const int64_t to = std::clamp<int64_t>(s.end_key(position, task.context) - base, from, kChunk);
      parts[row] = weigh(scratch.scores.get() + row * kChunk, s.scale, from, to, keys.end - base,
                         scratch.weights.get() + row * kChunk, scratch.values.get() + row * width);
    }
    sum_values(s, task, v_pool, keys, scratch);
    for (int64_t row = 0; row < rows; ++row) merge(totals[row], parts[row], width);
  }
}

template <typename T>
void finish(const Shape& s, int64_t row, int64_t head, const Partial& total, T* z) {
  T* out = z + (row * s.n_heads + head) * s.kv.d_head;
  for (int64_t i = 0; i < s.kv.d_head; ++i) store(out + i, total.values[i] / total.sum);
}

// What the rows of a step are, and whose.
struct Step {
  const int64_t* slots;  // [rows]
  const int32_t *cu_seqlens, *contexts, *block_table;
  int64_t rows, seqs;
};

// Cuts the rows of every sequence into tiles. A sequence with one tile is cut along its keys too,
// so that a long context alone in a step keeps all threads busy.
std::vector<Task> plan(const Shape& s, const Step& step, int64_t& partials) {
  std::vector<Task> tasks;
  const int64_t most = std::max<int64_t>(1, kTileRows / s.group());
  for (int64_t seq = 0; seq < step.seqs; ++seq) {
    const int64_t rows = step.cu_seqlens[seq + 1] - step.cu_seqlens[seq];
    const int64_t context = step.contexts[seq];
    for (int64_t done = 0; done < rows; done += most) {
      const int64_t positions = std::min(most, rows - done);
      const int64_t position = context - rows + done;
      const int64_t begin = s.first_key(position) / kChunk;
      const int64_t end = (s.end_key(position + positions - 1, context) + kChunk - 1) / kChunk;
      const int64_t share = rows <= most ? 1 : end - begin;
      for (int64_t g = 0; g < s.kv.n_kv_heads; ++g)
        for (int64_t chunk = begin; chunk < end; chunk += share) {
          const bool split = end - begin > share;
          tasks.push_back({step.cu_seqlens[seq] + done, position, positions, g, context,
                           step.block_table + seq * s.table_stride, chunk, chunk + share,
                           split ? partials : -1});
          if (split) partials += positions * s.group();
        }
    }
  }
  return tasks;
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
      for (int64_t row = 0; row < task.positions * group; ++row)
        totals[row] = {kNothing, 0, scratch.total.get() + row * width};
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
