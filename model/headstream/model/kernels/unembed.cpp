// unembed.h, with weights of the activations' type.

#include "unembed.h"

HEADSTREAM_UNEMBED(float32, float, float)
HEADSTREAM_UNEMBED(bfloat16, headstream::Bf16, headstream::Bf16)
