"""What the sync and the async client have in common: everything but the I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, overload

from headstream.client import _channel, _inputs, _interventions, _priority, _requests
from headstream.client._attempts import Attempts
from headstream.v1 import logits_service_pb2 as logits_pb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from headstream.client._channel import Tls
    from headstream.client._inputs import Text
    from headstream.client._interventions import Intervention
    from headstream.client._priority import PriorityName
    from headstream.client._requests import LogitsWanted
    from headstream.client._tensors import FloatType

GenerationT = TypeVar("GenerationT")
DecodingT = TypeVar("DecodingT")
TopDecodingT = TypeVar("TopDecodingT")


class BaseClient(ABC, Generic[GenerationT, DecodingT, TopDecodingT]):
    """Settings of a client, and the methods whose result alone tells sync from async."""

    def __init__(
        self,
        address: str = "localhost:50051",
        *,
        tls: bool | str | Path | Tls = False,
        token: str | None = None,
        token_in_plaintext: bool = False,
        timeout: float | None = 60.0,
        stream_timeout: float | None = 300.0,
        connect_timeout: float = 10.0,
    ) -> None:
        """Connecting begins here; the first call waits for it.

        Args:
            address: `host:port`; a DNS name with several addresses is balanced over all of them.
            tls: False for plaintext, True for TLS, or a path of the authorities' certificates, or
                `Tls(ca, cert, key)` for a client certificate too.
            token: Sent as `authorization: Bearer`. Needs TLS, unless the address is this machine.
            token_in_plaintext: Send it without TLS to any address: the network itself encrypts.
            timeout: Seconds for calls with one answer; None leaves it to the server.
            stream_timeout: The same for `generate`, `decode`, `score` and `embed_tokens`.
            connect_timeout: Seconds the first call waits until a healthy server is found.

        Raises:
            ValueError: A token would cross the network in plaintext.
            OSError: A certificate cannot be read.
        """
        given = _channel.credentials(tls)
        safe = given is not None or token_in_plaintext
        metadata = _channel.call_metadata(address, safe=safe, token=token)
        self._open(
            _channel.Target(
                address=address,
                credentials=given,
                metadata=metadata,
                timeout=timeout,
                stream_timeout=stream_timeout,
                connect_timeout=connect_timeout,
            )
        )

    @abstractmethod
    def _open(self, target: _channel.Target) -> None:
        """Make the connection."""

    def generate(
        self,
        prompt: Text,
        *,
        model: str = "",
        max_new_tokens: int = 16,
        min_new_tokens: int = 0,
        logits: LogitsWanted = "none",
        top_logits: int = 10,
        logprobs: bool = False,
        logits_dtype: FloatType = "float32",
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        typical_p: float = 1.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        logit_bias: Mapping[int, float] | None = None,
        allowed_token_ids: Sequence[int] = (),
        forbidden_token_ids: Sequence[int] = (),
        regex: str | None = None,
        json_schema: str | Mapping[str, object] | None = None,
        lark: str | None = None,
        seed: int | None = None,
        n: int = 1,
        stop: str | Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        embeddings: Sequence[int] | None = None,
        embeddings_dtype: FloatType = "float32",
        skip_special_tokens: bool = False,
        resume: int = 0,
        interventions: Sequence[Intervention] = (),
        priority: PriorityName = "normal",
        timeout: float | None = None,
    ) -> GenerationT:
        """Continue a prompt, one step per token.

        Args:
            prompt: A text; token ids taken as they are; or a chat, a list of messages such as
                `{"role": "user", "content": "Hello"}`, which the model's template turns into text.
            model: Name of the model; empty for the server's first.
            max_new_tokens: Most tokens to generate.
            min_new_tokens: Before these no stop token is drawn, and stop strings are text.
            logits: The raw logits each token was drawn from: "none"; "top", the largest with their
                ids; "full", all [V]; or token ids, whose logits come in that order.
            top_logits: How many with "top".
            logprobs: Log-probabilities (natural) instead of raw logits.
            logits_dtype: How they travel; bfloat16 arrives as float32.
            temperature: 0 takes the likeliest token; above, divides the logits before drawing.
            top_k: Draw among the k likeliest; 0 for all.
            top_p: Draw among the fewest tokens that reach this probability, in (0, 1].
            min_p: Draw among tokens with this fraction of the likeliest's probability, in [0, 1).
            typical_p: Draw among those nearest to the entropy with this probability, in (0, 1].
            repetition_penalty: Above 1 makes tokens of the prompt and output less likely.
            presence_penalty: Subtracted from the logits of tokens generated before.
            frequency_penalty: The same, times how often.
            logit_bias: Added to the logits of these token ids.
            allowed_token_ids: Draw no others; empty for all.
            forbidden_token_ids: Never draw these.
            regex: The whole generated text matches it (syntax of Rust's `regex`).
            json_schema: The text is one JSON value that this schema admits.
            lark: The text is a sentence of this grammar (the Lark form that llguidance reads).
            seed: Repeats a draw; None lets the server pick one, told in `Generation.seed`.
            n: Continuations of the prompt, which is computed once; the first is that of `n=1`.
                `Step.continuation` says whose step it is, `continuations` of the result the rest.
            stop: Strings that end it; the text is cut before the first of them.
            stop_token_ids: Tokens that end it.
            ignore_eos: Go on after the model's own end of text.
            embeddings: Layers (as of `embed`) whose vectors come with each token, a step later.
            embeddings_dtype: How they travel.
            skip_special_tokens: Leave out what the tokenizer adds, such as `<bos>`.
            resume: How often a stream that breaks is taken up where it was, by the same server or
                another with an equal fingerprint: the same steps follow, to the bit. `n=1` only.
            interventions: Changes to the model, as of `trace`.
            priority: How urgent it is, as of `embed`.
            timeout: Seconds until it must be complete; None for the client's `stream_timeout`.

        Returns:
            An iterator of `Step`, which raises; `text`, `finish_reason`, ... tell of the whole.

        Raises:
            ValueError: An argument is an unknown word or out of its type's range, more than one
                of regex, json_schema and lark is given, or `resume` with `n`.
        """
        if resume and n != 1:
            raise ValueError("resume goes with n=1 alone")
        request = logits_pb.GenerateRequest(
            model=model,
            prompt=_inputs.text_input(
                prompt, skip_special_tokens=skip_special_tokens, add_generation_prompt=True
            ),
            sampling=logits_pb.SamplingParams(
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                typical_p=typical_p,
                repetition_penalty=repetition_penalty,
                presence_penalty=presence_penalty,
                frequency_penalty=frequency_penalty,
                logit_bias=logit_bias,
                allowed_token_ids=allowed_token_ids,
                forbidden_token_ids=forbidden_token_ids,
                constraint=_requests.constraint(regex, json_schema, lark),
                seed=seed,
                n=n,
            ),
            stop=_requests.stop_conditions(
                stop,
                token_ids=stop_token_ids,
                ignore_eos=ignore_eos,
                max_new_tokens=max_new_tokens,
                min_new_tokens=min_new_tokens,
            ),
            logits=_requests.logits_options(
                logits, top_logits=top_logits, logprobs=logprobs, dtype=logits_dtype
            ),
            embeddings=_requests.generated_embeddings(embeddings, dtype=embeddings_dtype),
            interventions=_interventions.to_messages(interventions),
            priority=_priority.to_message(priority),
        )
        return self._generate(Attempts(request, resume), timeout)

    @overload
    def decode(
        self,
        prompt: Text,
        *,
        logits: Literal["top"],
        model: str = ...,
        top_logits: int = ...,
        logprobs: bool = ...,
        logits_dtype: FloatType = ...,
        max_tokens: int | None = ...,
        skip_special_tokens: bool = ...,
        interventions: Sequence[Intervention] = ...,
        priority: PriorityName = ...,
        timeout: float | None = ...,
    ) -> TopDecodingT: ...

    @overload
    def decode(
        self,
        prompt: Text,
        *,
        logits: Literal["full"] | Sequence[int] = ...,
        model: str = ...,
        top_logits: int = ...,
        logprobs: bool = ...,
        logits_dtype: FloatType = ...,
        max_tokens: int | None = ...,
        skip_special_tokens: bool = ...,
        interventions: Sequence[Intervention] = ...,
        priority: PriorityName = ...,
        timeout: float | None = ...,
    ) -> DecodingT: ...

    def decode(
        self,
        prompt: Text,
        *,
        logits: Literal["top", "full"] | Sequence[int] = "full",
        model: str = "",
        top_logits: int = 10,
        logprobs: bool = False,
        logits_dtype: FloatType = "float32",
        max_tokens: int | None = None,
        skip_special_tokens: bool = False,
        interventions: Sequence[Intervention] = (),
        priority: PriorityName = "normal",
        timeout: float | None = None,
    ) -> DecodingT | TopDecodingT:
        """Open a session in which the caller chooses the tokens: see the class of the result.

            with client.decode("So long and thanks for all the") as d:
                d.append([int(d.logits.argmax())])

        Args:
            prompt: A text, or token ids taken as they are.
            logits: What comes with each token: "full", all [V]; "top", the largest with their ids;
                or token ids, whose logits come in that order.
            model: Name of the model; empty for the server's first.
            top_logits: How many with "top".
            logprobs: Log-probabilities (natural) instead of raw logits.
            logits_dtype: How they travel; bfloat16 arrives as float32.
            max_tokens: Most tokens of a branch, prompt included; None for the server's limit.
            skip_special_tokens: Leave out what the tokenizer adds, such as `<bos>`.
            interventions: Changes to the model, as of `trace`.
            priority: How urgent it is, as of `embed`.
            timeout: Seconds until the session must be over; None for the client's `stream_timeout`.

        Raises:
            ValueError: An argument is an unknown word or out of its type's range.
        """
        opening = _requests.decode_open(
            prompt,
            logits,
            model=model,
            top_logits=top_logits,
            logprobs=logprobs,
            dtype=logits_dtype,
            max_tokens=max_tokens,
            skip_special_tokens=skip_special_tokens,
            interventions=interventions,
            priority=priority,
        )
        if logits == "top":
            return self._decode_top(opening, timeout)
        return self._decode(opening, timeout)

    @abstractmethod
    def _generate(self, attempts: Attempts, timeout: float | None) -> GenerationT:
        """Begin the call."""

    @abstractmethod
    def _decode(self, opening: logits_pb.DecodeOpen, timeout: float | None) -> DecodingT:
        """Begin a session with rows as arrays."""

    @abstractmethod
    def _decode_top(self, opening: logits_pb.DecodeOpen, timeout: float | None) -> TopDecodingT:
        """Begin a session with the largest logits of each row."""
