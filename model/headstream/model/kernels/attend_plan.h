// The shape of attention, and how the rows of a step are cut into units of work for threads.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kv_layout.h"
#include "partial_softmax.h"

namespace headstream {

constexpr int64_t kTileRows = 48;  // query rows: positions times the group

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

// What the rows of a step are, and whose.
struct Step {
  const int64_t* slots;  // [rows]
  const int32_t *cu_seqlens, *contexts, *block_table;
  int64_t rows, seqs;
};

// Cuts the rows of every sequence into tiles. A sequence with one tile is cut along its keys too,
// so that a long context alone in a step keeps all threads busy.
inline std::vector<Task> plan(const Shape& s, const Step& step, int64_t& partials) {
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

}  // namespace headstream
