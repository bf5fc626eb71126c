"""The model class of `lm_eval`: requests of tasks in, many at once, answers in their order."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar, cast

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import model_registry
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from headstream.client._client import Client
from headstream.client.lm_eval import _generation
from headstream.client.lm_eval._served import ServedModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lm_eval.api.instance import Instance

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class HeadstreamLM(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """A model that a Headstream server serves.

    Texts become tokens on the server, and are joined, cut and scored as `lm_eval`'s own `hf` model
    does it, so that both give the same results for the same weights. Chat templates
    (`--apply_chat_template`) are not supported. A text that has more bytes than the server takes
    (its `max_text_bytes`: by default 8 for each token of context) is refused, not cut.

    Where the server asks for a bearer token it is taken from `HEADSTREAM_TOKEN`, since the
    arguments below are written into the results.

    Args:
        target: `host:port`; a DNS name with several addresses is balanced over all of them.
        model: Name of the model; empty for the server's first.
        max_length: Most tokens that a token is scored by. None: the model's context.
        max_gen_toks: Tokens to generate where a task does not say.
        add_bos_token: False leaves out the special tokens that the tokenizer adds.
        prefix_token_id: What stands before a text without context. None: the beginning-of-text
            mark that the tokenizer adds, or else the model's first end-of-text token.
        concurrency: Requests in flight.
        timeout: Seconds each may take, waiting included.
        tls_ca: PEM file of authorities to trust; turns TLS on.
        batch_size: Comes from `lm_eval` and means nothing here: the server packs by itself.
        max_batch_size: The same.
        device: The same.

    Raises:
        Unavailable: There is no healthy server.
        NotFound: It has no such model.
        ValueError: An argument does not fit the model.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        model: str = "",
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        concurrency: int = 32,
        timeout: float = 3600.0,
        tls_ca: str | None = None,
        batch_size: object = None,  # noqa: ARG002
        max_batch_size: object = None,  # noqa: ARG002
        device: object = None,  # noqa: ARG002
    ) -> None:
        super().__init__()
        client = Client(
            target,
            tls=tls_ca or False,
            token=os.environ.get("HEADSTREAM_TOKEN"),
            stream_timeout=timeout,
        )
        self._served = served = ServedModel(client, model)
        self._concurrency = concurrency
        self.max_gen_toks = max_gen_toks
        self.max_length = served.context if max_length is None else max_length
        if not 1 <= self.max_length <= served.context:
            raise ValueError(f"max_length {max_length}: the model takes 1 to {served.context}")
        if add_bos_token and not served.added_token_ids:
            raise ValueError("add_bos_token: the model's tokenizer adds no special tokens")
        self._skip_special = add_bos_token is False
        self._prefix = prefix_token_id
        self._prefix_text, self._eos_text = (
            served.decode([token_id], skip_special_tokens=False)
            for token_id in (self.prefix_token_id, self.eot_token_id)
        )

    # --- Tokens ---

    @property
    def eot_token_id(self) -> int:
        """The first of the model's end-of-text tokens.

        Raises:
            ValueError: It has none.
        """
        if not self._served.info.eos_token_ids:
            raise ValueError("the model has no end-of-text token")
        return self._served.info.eos_token_ids[0]

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        if self._prefix is not None:
            return self._prefix
        return next(iter(self._served.added_token_ids), self.eot_token_id)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: object
    ) -> list[int]:
        """The token ids of a text.

        Args:
            string: May begin with the prefix token, spelled out; none is added then.
            add_special_tokens: Whether those of the tokenizer are added; None: as the class says.
        """
        if add_special_tokens is None:
            skip = self._skip_special or string.startswith(self._prefix_text)
        else:
            skip = not add_special_tokens
        return self._served.encode(string, skip_special_tokens=skip)

    # --- Requests of tasks ---

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation behind its context, and whether it is greedy."""
        one = super().loglikelihood  # splits the text, then calls `_loglikelihood_tokens`

        def score(request: Instance) -> tuple[float, bool]:
            answer: tuple[float, bool] = one([request], disable_tqdm=True)[0]
            return answer

        answers = self._each(score, requests, "loglikelihood", quiet=disable_tqdm)
        return self._keep("loglikelihood", requests, answers)

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of each whole text, in windows of the context's length."""
        texts: list[str] = [request.args[0] for request in requests]
        encoded = self._each(self.tok_encode, texts, "tokenizing", quiet=disable_tqdm)
        windows: list[tuple[int, list[int], list[int]]] = []  # whose, what it reads, what it scores
        for index, token_ids in enumerate(encoded):
            cut = get_rolling_token_windows(
                token_ids, self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            windows += [(index, *make_disjoint_window(window)) for window in cut]

        def score(window: tuple[int, list[int], list[int]]) -> float:
            return self._score(*window[1:])[0]

        scored = self._each(score, windows, "loglikelihood_rolling", quiet=disable_tqdm)
        totals = [0.0] * len(requests)
        for (index, *_), logprob in zip(windows, scored, strict=True):
            totals[index] += logprob
        return self._keep("loglikelihood_rolling", requests, totals)

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """The continuation of each context, up to a stop string."""

        def run(request: Instance) -> str:
            context, gen_kwargs = cast("tuple[str, dict[str, Any]]", request.args)
            return self._continue(context, gen_kwargs)

        texts = self._each(run, requests, "generate_until", quiet=disable_tqdm)
        return self._keep("generate_until", requests, texts)

    def get_model_info(self) -> dict[str, Any]:
        """What `lm_eval` writes into its results: which numbers these are."""
        info = self._served.info
        return {
            "model_num_parameters": info.sizes.parameters,
            "model_dtype": info.fingerprint.dtype,
            "model_sha": info.fingerprint.weights_sha256,
            "model_fingerprint": asdict(info.fingerprint),
            "max_length": self.max_length,
        }

    # --- One at a time ---

    def _loglikelihood_tokens(
        self, requests: Iterable[tuple[tuple[str, str], list[int], list[int]]], **_: object
    ) -> list[tuple[float, bool]]:
        return [self._score(context, continuation) for _, context, continuation in requests]

    def _score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        """Log-likelihood of `continuation`, and whether each token is the likeliest.

        Each is scored by at most `max_length` tokens before it; `context` loses its beginning.

        Raises:
            ValueError: There is nothing to score, or more than fits.
        """
        count = len(continuation)
        if not 1 <= count <= self.max_length:
            raise ValueError(f"a continuation of {count} tokens; 1 to {self.max_length} fit")
        token_ids = (context + continuation)[-(self.max_length + 1) :]
        return self._served.likelihood(token_ids, count)

    def _continue(self, context: str, gen_kwargs: dict[str, Any]) -> str:
        """Generate; `context` loses its beginning where both do not fit.

        Raises:
            ValueError: Nothing of it would be left.
        """
        wanted = _generation.parse(
            gen_kwargs, max_new_tokens=self.max_gen_toks, eos_text=self._eos_text
        )
        room = self.max_length - wanted.max_new_tokens
        if room < 1:
            raise ValueError(
                f"max_gen_toks {wanted.max_new_tokens}: the model takes {self.max_length}, "
                "tokens of the context included"
            )
        token_ids = self._served.generate(
            self.tok_encode(context)[-room:],
            max_new_tokens=wanted.max_new_tokens,
            stop=wanted.stop,
            sampling=wanted.sampling,
        )
        # The tokenizer's own text, as `hf` has it; that of the steps may differ by a space.
        return wanted.cut(self._served.decode(token_ids))

    def _each(
        self,
        function: Callable[[ItemT], ResultT],
        items: Sequence[ItemT],
        what: str,
        *,
        quiet: bool,
    ) -> list[ResultT]:
        """Call for every item, several at once; results in the order of the items."""
        with ThreadPoolExecutor(self._concurrency) as pool:
            results = tqdm(pool.map(function, items), what, len(items), disable=quiet)
            return list(cast("Iterable[ResultT]", results))

    def _keep(
        self, method: str, requests: Sequence[Instance], answers: list[ResultT]
    ) -> list[ResultT]:
        """Give the answers to the cache of `--use_cache`, and back."""
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial(method, cast("tuple[Any, ...]", request.args), answer)
        return answers


model_registry.register("headstream", target=HeadstreamLM)
