// The nonlinearities of MLPs, on one number.

#pragma once

#include "numbers.h"

namespace headstream {

// 1 / (1 + exp(-x))
inline float sigmoid(float x) {
  const float e = exp_negative(-std::fabs(x));
  return (x < 0 ? e : 1.0f) / (1.0f + e);
}

// erf(x), absolute error below 2e-7: Abramowitz and Stegun 1964, formula 7.1.26.
inline float erf_near(float x) {
  const float a = std::fabs(x);
  const float t = 1.0f / (1.0f + 0.3275911f * a);
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  return std::copysign(1.0f - p * t * exp_negative(-a * a), x);
}

struct Gelu {
  static float of(float x) { return 0.5f * x * (1.0f + erf_near(x * 0.70710678f)); }
};
struct GeluTanh {  // 0.5 x (1 + tanh(u)) = x sigmoid(2 u)
  static float of(float x) { return x * sigmoid(1.59576912f * (x + 0.044715f * x * x * x)); }
};
struct Silu {
  static float of(float x) { return x * sigmoid(x); }
};

// Calls f with the activation of this number, as gate.py counts them; false: there is none.
template <typename F>
inline bool with_activation(int64_t number, F&& f) {
  switch (number) {
    case 0: f(Gelu{}); return true;
    case 1: f(GeluTanh{}); return true;
    case 2: f(Silu{}); return true;
    default: return false;
  }
}

}  // namespace headstream
