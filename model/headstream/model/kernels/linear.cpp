// linear.h, with weights of the activations' type.

#include "linear.h"

HEADSTREAM_LINEAR(float32, float, float)
HEADSTREAM_LINEAR(bfloat16, headstream::Bf16, headstream::Bf16)
