"""A served model in EleutherAI's lm-evaluation-harness (`lm_eval`), under the name `headstream`.

    pip install headstream[eval]
    python -m headstream.client.lm_eval --model headstream --model_args target=localhost:50051 \
        --tasks hellaswag

The command line is `lm_eval`'s own; releases of it that look for plugins find the model without
this module's help. From Python, importing this module is enough for
`lm_eval.simple_evaluate(model="headstream", model_args={"target": ...}, tasks=[...])`.
"""

from __future__ import annotations

from headstream.client.lm_eval._model import HeadstreamLM

__all__ = ["HeadstreamLM"]
