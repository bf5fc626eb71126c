// linear.h, with weights of eight bits: a library of its own, compiled where it is wanted.

#include "linear.h"

HEADSTREAM_LINEAR(float32, float, int8_t)
HEADSTREAM_LINEAR(bfloat16, headstream::Bf16, int8_t)
