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

// exp(x) for x <= 0, relative error below 2e-7: 2^n times a polynomial (Cephes, expf). Written out
// because a call into libm would not be vectorised.
inline float exp_negative(float x) {
  x = std::max(x, -87.0f);
  const float n = std::floor(x * 1.44269504f + 0.5f);
  float r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t exponent = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &exponent, sizeof scale);
  return p * scale;
}

}  // namespace headstream
