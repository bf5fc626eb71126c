// The nonlinearity of an MLP, alone or multiplied with the other half of a gated one.
//
// Elementwise: an element's bits depend on that element alone.

#include "activation.h"

namespace {

using namespace headstream;

constexpr int64_t kWorthThreads = 1 << 12;  // numbers; below, starting threads costs more

// out[r, i] = f(x[r, i]), times x[r, width + i] if the rows are gated.
template <typename F, typename T>
void gate(const T* x, int64_t rows, int64_t width, bool gated, T* out) {
  const int64_t stride = gated ? 2 * width : width;
#pragma omp parallel for if (rows * width > kWorthThreads)
  for (int64_t r = 0; r < rows; ++r) {
    const T* from = x + r * stride;
    T* to = out + r * width;
    if (gated) {
#pragma omp simd
      for (int64_t i = 0; i < width; ++i)
        store(to + i, F::of(load(from[i])) * load(from[width + i]));
    } else {
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) store(to + i, F::of(load(from[i])));
    }
  }
}

template <typename T>
int gate_by(int64_t number, const T* x, int64_t rows, int64_t width, bool gated, T* out) {
  return with_activation(number, [&](auto activation) {
    gate<decltype(activation)>(x, rows, width, gated, out);
  }) ? 0 : 1;
}

}  // namespace

// Both return 0, or 1 where the activation is not known.
extern "C" int gate_float32(int64_t activation, const float* x, int64_t rows, int64_t width,
                            int64_t gated, float* out) {
  return gate_by(activation, x, rows, width, gated, out);
}

extern "C" int gate_bfloat16(int64_t activation, const headstream::Bf16* x, int64_t rows,
                             int64_t width, int64_t gated, headstream::Bf16* out) {
  return gate_by(activation, x, rows, width, gated, out);
}
