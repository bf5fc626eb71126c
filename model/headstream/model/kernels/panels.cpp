// Weights from rows into panels of 16 columns (tile.h).

#include "tile.h"

namespace {

using namespace headstream;

// W [columns, depth] row by row -> panels; columns past the end are zero.
template <typename T>
void pack(const T* weight, int64_t columns, int64_t depth, T* panels) {
  const int64_t count = (columns + kLanes - 1) / kLanes;
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < count; ++n)
    for (int64_t k = 0; k < depth; k += kDepth<T>)
      for (int64_t lane = 0; lane < kLanes; ++lane)
        for (int64_t i = 0; i < kDepth<T>; ++i) {
          const int64_t column = n * kLanes + lane;
          T* to = panels + n * depth * kLanes + k * kLanes + lane * kDepth<T> + i;
          *to = column < columns ? weight[column * depth + k + i] : T{};
        }
}

}  // namespace

extern "C" void pack_float32(const float* weight, int64_t columns, int64_t depth, float* panels) {
  pack(weight, columns, depth, panels);
}

extern "C" void pack_bfloat16(const headstream::Bf16* weight, int64_t columns, int64_t depth,
                              headstream::Bf16* panels) {
  pack(weight, columns, depth, panels);
}
