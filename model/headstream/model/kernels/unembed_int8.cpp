// unembed.h, with weights of eight bits: a library of its own, compiled where it is wanted.

#include "unembed.h"

HEADSTREAM_UNEMBED(float32, float, int8_t)
HEADSTREAM_UNEMBED(bfloat16, headstream::Bf16, int8_t)
