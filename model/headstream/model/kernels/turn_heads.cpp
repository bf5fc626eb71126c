// Queries and keys on their way from the projection to attention: RMSNorm of each head, if the
// model has it, and rotation by the row's position.
//
// Heads are worked on one by one and in place, so a row's result is the same bits whichever rows
// share the call.

#include "rms.h"

namespace {

using namespace headstream;

constexpr int64_t kWidest = 512;
constexpr int64_t kWorthThreads = 1 << 14;  // numbers; below, starting threads costs more

struct Turn {
  int64_t n_heads, n_kv_heads, d_head;
  const float *q_gain, *k_gain;  // [d_head]; null: no norm
  float eps;
  const float *cos, *sin;  // [positions, half]; null: no rotation
  int64_t half;            // dimension i is paired with i + half
};

template <typename T>
void turn_head(const Turn& s, T* head, const float* gain, int64_t position) {
  alignas(64) float x[kWidest];
  for (int64_t i = 0; i < s.d_head; ++i) x[i] = load(head[i]);
  if (gain != nullptr) {
    const float scale = inverse_rms(head, s.d_head, s.eps);
    for (int64_t i = 0; i < s.d_head; ++i) x[i] = x[i] * scale * gain[i];
  }
  if (s.cos != nullptr) {
    const float *cos = s.cos + position * s.half, *sin = s.sin + position * s.half;
    for (int64_t i = 0; i < s.half; ++i) {
      const float first = x[i], second = x[i + s.half];
      x[i] = first * cos[i] - second * sin[i];
      x[i + s.half] = second * cos[i] + first * sin[i];
    }
  }
  for (int64_t i = 0; i < s.d_head; ++i) store(head + i, x[i]);
}

// qkv [rows, (H + 2 G) * D]: the first H heads are queries, the next G keys.
template <typename T>
int turn_heads(T* qkv, int64_t rows, const int64_t* positions, const Turn& s) {
  if (s.d_head > kWidest) return 1;
  const int64_t turned = s.n_heads + s.n_kv_heads, stride = (turned + s.n_kv_heads) * s.d_head;
#pragma omp parallel for if (rows * stride > kWorthThreads)
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t h = 0; h < turned; ++h)
      turn_head(s, qkv + n * stride + h * s.d_head, h < s.n_heads ? s.q_gain : s.k_gain,
                positions[n]);
  return 0;
}

}  // namespace

// Both return 0, or 1 where the heads are too wide.
extern "C" int turn_heads_float32(float* qkv, int64_t rows, const int64_t* positions,
                                  int64_t n_heads, int64_t n_kv_heads, int64_t d_head,
                                  const float* q_gain, const float* k_gain, float eps,
                                  const float* cos, const float* sin, int64_t half) {
  return turn_heads(qkv, rows, positions,
                    Turn{n_heads, n_kv_heads, d_head, q_gain, k_gain, eps, cos, sin, half});
}

extern "C" int turn_heads_bfloat16(headstream::Bf16* qkv, int64_t rows, const int64_t* positions,
                                   int64_t n_heads, int64_t n_kv_heads, int64_t d_head,
                                   const float* q_gain, const float* k_gain, float eps,
                                   const float* cos, const float* sin, int64_t half) {
  return turn_heads(qkv, rows, positions,
                    Turn{n_heads, n_kv_heads, d_head, q_gain, k_gain, eps, cos, sin, half});
}
