// Attention of single query rows over a block pool, for CPUs.
//
//   z[r, h, :] = sum_j softmax_j(scale * q[r, h, :] . K[j, g, :]) V[j, g, :]
//
// for each row r with keys j in [first, context), where g is the KV head of query head h. A row's
// arithmetic depends on its own context alone: keys are cut into chunks of kChunk counted from the
// sequence's position 0, every chunk is summed in the same order, and chunks are merged in order
// (the merge of partial softmaxes is that of Milakov and Gimelshein 2018, arXiv:1805.02867). So the
// result is the same bits whichever rows share the call and however many threads run.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "numbers.h"

namespace {

using namespace headstream;

constexpr int kChunk = 512;  // keys; also the unit of work of a thread
constexpr int kTile = 64;    // head dimensions held in registers while values are summed

struct Shape {
  int64_t n_heads, n_kv_heads, d_head, block_size, table_stride;
  int64_t window;  // 0: all keys
  float scale;
};

// One unit of work: query row `row`, keys [begin, end) of its sequence, one KV head.
struct Task {
  int64_t row, seq, kv_head, begin, end;
  int64_t partial;  // where its (maximum, sum, values) of each query head go
};

// Sums one chunk for all `Group` query heads of a KV head, so that keys are read once.
template <typename T, int Group>
void attend_chunk(const Task& task, const Shape& s, const T* q, const T* k_pool, const T* v_pool,
                  const int32_t* block_table, float* partials) {
  const int64_t d = s.d_head, count = task.end - task.begin;
  const int64_t stride = s.n_kv_heads * d;  // between two tokens of a block
  const int32_t* blocks = block_table + task.seq * s.table_stride;
  auto offset = [&](int64_t j) {
    return (blocks[j / s.block_size] * s.block_size + j % s.block_size) * stride + task.kv_head * d;
  };
  alignas(64) float query[Group][256];
  for (int h = 0; h < Group; ++h)
    for (int64_t i = 0; i < d; ++i)
      query[h][i] = load(q[(task.row * s.n_heads + task.kv_head * Group + h) * d + i]) * s.scale;

  alignas(64) float weight[Group][kChunk];
  for (int64_t j = 0; j < count; ++j) {
    const T* key = k_pool + offset(task.begin + j);
    float dot[Group] = {};
    for (int h = 0; h < Group; ++h) {
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < d; ++i) sum += query[h][i] * load(key[i]);
      dot[h] = sum;
    }
    for (int h = 0; h < Group; ++h) weight[h][j] = dot[h];
  }

  const int64_t width = d + 2;
  for (int h = 0; h < Group; ++h) {
    float maximum = -std::numeric_limits<float>::infinity(), sum = 0;
    for (int64_t j = 0; j < count; ++j) maximum = std::max(maximum, weight[h][j]);
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < count; ++j) {
      weight[h][j] = exp_negative(weight[h][j] - maximum);
      sum += weight[h][j];
    }
    float* out = partials + (task.partial + h) * width;
    out[0] = maximum;
    out[1] = sum;
  }

  for (int64_t i0 = 0; i0 < d; i0 += kTile) {
    const int64_t n = std::min<int64_t>(kTile, d - i0);
    float acc[Group][kTile] = {};
    for (int64_t j = 0; j < count; ++j) {
      const T* value = v_pool + offset(task.begin + j) + i0;
      if (n == kTile) {
        for (int h = 0; h < Group; ++h) {
          const float w = weight[h][j];
#pragma omp simd
          for (int i = 0; i < kTile; ++i) acc[h][i] += w * load(value[i]);
        }
      } else {
        for (int h = 0; h < Group; ++h)
          for (int64_t i = 0; i < n; ++i) acc[h][i] += weight[h][j] * load(value[i]);
      }
    }
    for (int h = 0; h < Group; ++h)
      std::copy_n(acc[h], n, partials + (task.partial + h) * width + 2 + i0);
  }
}

template <typename T>
using Chunk = void (*)(const Task&, const Shape&, const T*, const T*, const T*, const int32_t*,
                       float*);

template <typename T>
Chunk<T> pick(int64_t group) {
  switch (group) {
    case 1: return attend_chunk<T, 1>;
    case 2: return attend_chunk<T, 2>;
    case 3: return attend_chunk<T, 3>;
    case 4: return attend_chunk<T, 4>;
    case 5: return attend_chunk<T, 5>;
    case 6: return attend_chunk<T, 6>;
    case 7: return attend_chunk<T, 7>;
    case 8: return attend_chunk<T, 8>;
    case 16: return attend_chunk<T, 16>;
    default: return nullptr;
  }
}

template <typename T>
int attend_rows(const T* q, const T* k_pool, const T* v_pool, T* z, const int64_t* rows,
                const int64_t* seqs, const int64_t* contexts, int64_t num_rows,
                const int32_t* block_table, const Shape& s) {
  const int64_t group = s.n_heads / s.n_kv_heads, width = s.d_head + 2;
  const Chunk<T> chunk = pick<T>(group);
  if (chunk == nullptr || s.d_head > 256) return 1;

  std::vector<Task> tasks;
  std::vector<int64_t> first_task(num_rows * s.n_kv_heads + 1);
  for (int64_t r = 0; r < num_rows; ++r) {
    const int64_t first = s.window > 0 ? std::max<int64_t>(0, contexts[r] - s.window) : 0;
    for (int64_t g = 0; g < s.n_kv_heads; ++g) {
      first_task[r * s.n_kv_heads + g] = tasks.size();
      for (int64_t begin = first; begin < contexts[r];) {
        const int64_t end = std::min((begin / kChunk + 1) * kChunk, contexts[r]);
        tasks.push_back({rows[r], seqs[r], g, begin, end, static_cast<int64_t>(tasks.size()) * group});
        begin = end;
      }
    }
  }
  first_task.back() = tasks.size();
  std::vector<float> partials(tasks.size() * group * width);

#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t t = 0; t < static_cast<int64_t>(tasks.size()); ++t)
    chunk(tasks[t], s, q, k_pool, v_pool, block_table, partials.data());

#pragma omp parallel for schedule(static)
  for (int64_t item = 0; item < num_rows * s.n_kv_heads; ++item) {
    const int64_t r = item / s.n_kv_heads, g = item % s.n_kv_heads;
    for (int64_t h = 0; h < group; ++h) {
      float maximum = -std::numeric_limits<float>::infinity(), sum = 0;
      for (int64_t t = first_task[item]; t < first_task[item + 1]; ++t)
        maximum = std::max(maximum, partials[(t * group + h) * width]);
      alignas(64) float total[256] = {};
      for (int64_t t = first_task[item]; t < first_task[item + 1]; ++t) {
        const float* part = partials.data() + (t * group + h) * width;
        const float factor = exp_negative(part[0] - maximum);
        sum += factor * part[1];
        for (int64_t i = 0; i < s.d_head; ++i) total[i] += factor * part[2 + i];
      }
      T* out = z + (rows[r] * s.n_heads + g * group + h) * s.d_head;
      for (int64_t i = 0; i < s.d_head; ++i) store(out + i, total[i] / sum);
    }
  }
  return 0;
}

}  // namespace

// Both return 0, or 1 where this shape is not supported.
extern "C" int attend_rows_float32(const float* q, const float* k, const float* v, float* z,
                                   const int64_t* rows, const int64_t* seqs,
                                   const int64_t* contexts, int64_t num_rows,
                                   const int32_t* block_table, int64_t table_stride,
                                   int64_t n_heads, int64_t n_kv_heads, int64_t d_head,
                                   int64_t block_size, int64_t window, float scale) {
  return attend_rows(q, k, v, z, rows, seqs, contexts, num_rows, block_table,
                     Shape{n_heads, n_kv_heads, d_head, block_size, table_stride, window, scale});
}

extern "C" int attend_rows_bfloat16(const headstream::Bf16* q, const headstream::Bf16* k,
                                    const headstream::Bf16* v, headstream::Bf16* z,
                                    const int64_t* rows, const int64_t* seqs,
                                    const int64_t* contexts, int64_t num_rows,
                                    const int32_t* block_table, int64_t table_stride,
                                    int64_t n_heads, int64_t n_kv_heads, int64_t d_head,
                                    int64_t block_size, int64_t window, float scale) {
  return attend_rows(q, k, v, z, rows, seqs, contexts, num_rows, block_table,
                     Shape{n_heads, n_kv_heads, d_head, block_size, table_stride, window, scale});
}
