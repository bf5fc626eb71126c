// Weights from rows into panels of 16 columns (tile.h).

#include "tile.h"

namespace {

using namespace headstream;

// W [columns, depth] row by row -> panels for activations of T; columns past the end are zero.
template <typename T, typename W>
void pack(const W* weight, int64_t columns, int64_t depth, W* panels) {
  const int64_t count = (columns + kLanes - 1) / kLanes;
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < count; ++n)
    for (int64_t k = 0; k < depth; k += kDepth<T>)
      for (int64_t lane = 0; lane < kLanes; ++lane)
        for (int64_t i = 0; i < kDepth<T>; ++i) {
          const int64_t column = n * kLanes + lane;
          W* to = panels + n * depth * kLanes + k * kLanes + lane * kDepth<T> + i;
          *to = column < columns ? weight[column * depth + k + i] : W{};
        }
}

}  // namespace

#define HEADSTREAM_PACK(SUFFIX, T, W)                                                       \
  extern "C" void pack_##SUFFIX(const W* weight, int64_t columns, int64_t depth, W* panels) { \
    pack<T>(weight, columns, depth, panels);                                                \
  }

HEADSTREAM_PACK(float32, float, float)
HEADSTREAM_PACK(bfloat16, headstream::Bf16, headstream::Bf16)
HEADSTREAM_PACK(int8_float32, float, int8_t)
HEADSTREAM_PACK(int8_bfloat16, headstream::Bf16, int8_t)
