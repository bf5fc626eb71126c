// Root mean square normalisation of one row, in float.

#pragma once

#include "numbers.h"

namespace headstream {

// 1 / sqrt(mean(x^2) + eps)
template <typename T>
inline float inverse_rms(const T* x, int64_t width, float eps) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < width; ++i) squares += load(x[i]) * load(x[i]);
  return 1.0f / std::sqrt(squares / static_cast<float>(width) + eps);
}

}  // namespace headstream
