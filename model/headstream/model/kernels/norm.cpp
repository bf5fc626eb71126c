// RMSNorm of rows, and the additions to the residual stream around it.
//
// Rows are worked on one by one, so a row's result is the same bits whichever rows share the call.

#include "rms.h"

namespace {

using namespace headstream;

constexpr int64_t kWorthThreads = 1 << 14;  // numbers; below, starting threads costs more

template <typename T>
void rms_norm(const T* x, int64_t rows, int64_t width, const float* gain, float eps, T* out) {
#pragma omp parallel for if (rows * width > kWorthThreads)
  for (int64_t r = 0; r < rows; ++r) {
    const T* from = x + r * width;
    T* to = out + r * width;
    const float scale = inverse_rms(from, width, eps);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) store(to + i, load(from[i]) * scale * gain[i]);
  }
}

// resid += y, or norm(y) with a gain for it; then out = norm(resid), unless out is null.
template <typename T>
void add_norm(T* resid, const T* y, int64_t rows, int64_t width, const float* y_gain,
              const float* gain, float y_eps, float eps, T* out) {
#pragma omp parallel for if (rows * width > kWorthThreads)
  for (int64_t r = 0; r < rows; ++r) {
    T* sum = resid + r * width;
    const T* term = y + r * width;
    if (y_gain == nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) store(sum + i, load(sum[i]) + load(term[i]));
    } else {
      const float scale = inverse_rms(term, width, y_eps);
#pragma omp simd
      for (int64_t i = 0; i < width; ++i)
        store(sum + i, load(sum[i]) + load(term[i]) * scale * y_gain[i]);
    }
    if (out == nullptr) continue;
    T* to = out + r * width;
    const float scale = inverse_rms(sum, width, eps);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) store(to + i, load(sum[i]) * scale * gain[i]);
  }
}

}  // namespace

extern "C" void rms_norm_float32(const float* x, int64_t rows, int64_t width, const float* gain,
                                 float eps, float* out) {
  rms_norm(x, rows, width, gain, eps, out);
}

extern "C" void rms_norm_bfloat16(const headstream::Bf16* x, int64_t rows, int64_t width,
                                  const float* gain, float eps, headstream::Bf16* out) {
  rms_norm(x, rows, width, gain, eps, out);
}

extern "C" void add_norm_float32(float* resid, const float* y, int64_t rows, int64_t width,
                                 const float* y_gain, const float* gain, float y_eps, float eps,
                                 float* out) {
  add_norm(resid, y, rows, width, y_gain, gain, y_eps, eps, out);
}

extern "C" void add_norm_bfloat16(headstream::Bf16* resid, const headstream::Bf16* y, int64_t rows,
                                  int64_t width, const float* y_gain, const float* gain,
                                  float y_eps, float eps, headstream::Bf16* out) {
  add_norm(resid, y, rows, width, y_gain, gain, y_eps, eps, out);
}
