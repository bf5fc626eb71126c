// Number formats and elementary functions shared by the kernels.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace headstream {

struct Bf16 {
  uint16_t bits;
};

inline float load(float x) { return x; }
inline float load(Bf16 x) {
  const uint32_t wide = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}
inline void store(float* to, float x) { *to = x; }
inline void store(Bf16* to, float x) {
  uint32_t wide;
  std::memcpy(&wide, &x, sizeof wide);
  to->bits = static_cast<uint16_t>((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16);  // nearest, even
}

// 2^x for x <= 0, relative error below 2e-7, exactly 1 at 0 and 0 below -126.5: 2^n times the
// polynomial of degree 5 that errs least in [-1/2, 1/2]. Written out because a call into libm would
// not be vectorised.
inline float exp2_negative(float x) {
  x = std::max(x, -127.0f);
  const float n = std::floor(x + 0.5f), r = x - n;
  float p = 1.32647203e-3f;
  p = p * r + 9.67151299e-3f;
  p = p * r + 5.55073395e-2f;
  p = p * r + 2.40222424e-1f;
  p = p * r + 6.93147004e-1f;
  p = p * r + 1.0f;
  const int32_t exponent = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &exponent, sizeof scale);
  return p * scale;
}

constexpr float kLog2E = 1.44269504f;

// exp(x) for x <= 0, relative error below 2e-7 + 8e-8 |x|.
inline float exp_negative(float x) { return exp2_negative(x * kLog2E); }

}  // namespace headstream
