// LayerNorm of rows, or of the sums of two.
//
// Rows are worked on one by one, so a row's result is the same bits whichever rows share the call.

#include <vector>

#include "numbers.h"

namespace {

using namespace headstream;

constexpr int64_t kWorthThreads = 1 << 14;  // numbers; below, starting threads costs more

struct Affine {
  const float *gain, *bias;  // [width]; bias may be null
  float eps;
};

// out = norm(row), which is kept in float until then.
template <typename T>
void norm_row(const float* row, int64_t width, const Affine& affine, T* out) {
  float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) sum += row[i];
  const float mean = sum / static_cast<float>(width);
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < width; ++i) squares += (row[i] - mean) * (row[i] - mean);
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(width) + affine.eps);
  if (affine.bias == nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) store(out + i, (row[i] - mean) * scale * affine.gain[i]);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i)
      store(out + i, (row[i] - mean) * scale * affine.gain[i] + affine.bias[i]);
  }
}

// out = norm(x + y); y may be null, and out may be x.
template <typename T>
void layer_norm(const T* x, const T* y, int64_t rows, int64_t width, const Affine& affine, T* out) {
#pragma omp parallel if (rows * width > kWorthThreads)
  {
    std::vector<float> row(width);
#pragma omp for
    for (int64_t r = 0; r < rows; ++r) {
      const T* from = x + r * width;
      if (y == nullptr) {
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) row[i] = load(from[i]);
      } else {
        const T* term = y + r * width;
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) row[i] = load(from[i]) + load(term[i]);
      }
      norm_row(row.data(), width, affine, out + r * width);
    }
  }
}

}  // namespace

extern "C" void layer_norm_float32(const float* x, const float* y, int64_t rows, int64_t width,
                                   const float* gain, const float* bias, float eps, float* out) {
  layer_norm(x, y, rows, width, Affine{gain, bias, eps}, out);
}

extern "C" void layer_norm_bfloat16(const headstream::Bf16* x, const headstream::Bf16* y,
                                    int64_t rows, int64_t width, const float* gain,
                                    const float* bias, float eps, headstream::Bf16* out) {
  layer_norm(x, y, rows, width, Affine{gain, bias, eps}, out);
}
