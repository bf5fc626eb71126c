"""Every setting of the server, once: a flag, a ``HEADSTREAM_*`` variable and a key of a YAML file.

``max_inputs`` is ``--max-inputs``, ``HEADSTREAM_MAX_INPUTS`` and ``max_inputs:``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from headstream.access.loopback import is_loopback
from headstream.server.engine.config import EngineConfig

DEFAULT_MODEL = "gemma-3-270m"
MIB = 1 << 20

Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Magnitude = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Pause = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """Settings of `headstream serve`."""

    model_config = SettingsConfigDict(
        env_prefix="HEADSTREAM_",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_prog_name="headstream serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )

    # --- Where it listens ---
    host: str = "127.0.0.1"
    """Address of both ports."""
    port: Port = 50051
    """Port of the gRPC services; 0 picks a free one."""
    admin_port: Port = 9090
    """Port of /metrics, /livez and /readyz over HTTP; 0 picks a free one."""
    explorer: bool = False
    """Serve a page that looks inside the models, under /explorer/ of the admin port. It has neither
    TLS nor a login: `host` must be loopback, or `insecure` set, and there can be no `tokens`."""
    insecure: bool = False
    """Allow plaintext on an address that other machines can reach."""
    tls_cert: Path | None = None
    """PEM file of the server's certificate chain; turns TLS on."""
    tls_key: Path | None = None
    """PEM file of its key."""
    tls_client_ca: Path | None = None
    """PEM file of the authorities whose clients are let in (mutual TLS)."""
    tokens: Path | None = None
    """TOML file of bearer tokens, with scopes and quotas; without it nobody is asked for one.
    `headstream token new` makes an entry."""
    reload_interval: Seconds = 5.0
    """Seconds between looks at the TLS files and the tokens: what was replaced is taken up."""
    profile: Literal["development", "production"] = "development"
    """production: reflection and internals are off unless they are asked for."""
    reflection: bool = True
    """Serve grpc.reflection, which tells tools the contract."""
    open_inference: bool = False
    """Serve the Open Inference Protocol (KServe v2, `inference.GRPCInferenceService`) as well."""
    internals: bool = True
    """Serve Trace, Attention and LogitLens, and make the interventions that requests bring."""

    # --- What it serves ---
    models: Annotated[tuple[str, ...], NoDecode] = (DEFAULT_MODEL,)
    """Models: an embedded name, a directory, a GGUF file or a hub id, each with `NAME=` before it
    if it is served under another name. The first answers requests that name none."""
    manifests: Annotated[tuple[str, ...], NoDecode] = ()
    """Files of sha256 sums, `NAME=FILE` for each model that is checked when it is loaded: a file
    that differs or is not listed stops the start. `headstream manifest` makes one."""
    cache_dir: Path = Path("~/.cache/headstream")
    """Where converted weights are kept."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model runs."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of weights and activations; auto is bfloat16 where the hardware has it."""
    quantization: Literal["none", "int8"] = "none"
    """int8: the weights of all linears and of the unembedding are rounded to eight bits when they
    are loaded, with a scale for each output. Half their memory, less exact; on CPU only."""
    threads: Count | None = None
    """Threads of each engine, or each of its ranks. Default: one per core, shared between all."""
    tensor_parallel: Count = 1
    """Ranks, each a process (on CUDA with a GPU of its own), that share every model: for models
    larger than one GPU. The inside of such models is not shown, as with `--no-internals`."""
    rank_timeout: Annotated[float, Field(ge=5, allow_inf_nan=False)] = 20.0
    """Seconds that the ranks of a model wait for each other; then all end, and are started anew."""
    max_num_batched_tokens: Count | None = None
    """Tokens of one step. Default: 2048 on CPU, 8192 on CUDA; a quarter
    while most sequences wait for a next token rather than for a first. A longer text of an encoder
    has a step of its own."""
    max_num_seqs: Count = 64
    """Sequences of one step."""
    max_model_len: Count | None = None
    """Longest sequence. Default: what the model allows, or what its sentence-transformers
    directory says."""
    block_size: Count | None = None
    """Tokens of a block of key/value memory."""
    kv_cache_bytes: Count | None = None
    """Key/value memory, of each rank. Default: 2 GiB on CPU, most of what is free on CUDA. Encoders
    keep none."""
    prefix_caching: bool = True
    """Keep the keys and values of prompts while memory is free, for prompts that begin the same."""

    # --- What a request may ask for ---
    max_request_bytes: Count = 4 * MIB
    """Bytes of one request message."""
    max_text_bytes: Count | None = None
    """Bytes of one text. Default: 8 for each token of the longest sequence."""
    max_inputs: Count = 64
    """Texts of one Embed or Score request."""
    max_stream_items: Count | None = None
    """Texts of one EmbedStream call that are read and not answered yet; no more are read meanwhile.
    Default: 2 x `max_num_seqs`."""
    max_new_tokens: Count = 4096
    """Generated tokens of one continuation."""
    max_continuations: Count = 16
    """Continuations of one Generate request (`n`); at most half of `max_num_seqs`."""
    max_top_k: Count = 1024
    """Logits of a row by TOP_K or CHOSEN; whole rows are bounded by `max_reply_bytes`."""
    max_reply_bytes: Count = 1024 * MIB
    """Bytes of tensors in one streamed reply, in chunks of at most 1 MiB."""
    max_message_bytes: Annotated[int, Field(ge=2 * MIB)] = 4 * MIB - 64 * 1024
    """Bytes of one reply message. The default fits clients that keep gRPC's own 4 MiB."""
    max_queued_requests: Count | None = None
    """Sequences waiting for their first result. Default: 4 x `max_num_seqs`."""
    max_queued_tokens: Count | None = None
    """Their tokens. Default: 4 x the larger of a step and the longest sequence."""

    max_branches: Count = 64
    """Branches of one Decode session at once."""
    max_session_tokens: Count | None = None
    """Tokens whose keys and values one Decode session holds; those that branches share count once.
    Default: a quarter of the key/value memory, at least the longest sequence."""
    max_all_session_tokens: Count | None = None
    """The same, of all sessions of a model. Default: half of the key/value memory."""

    max_look_bytes: Count = 1024 * MIB
    """Bytes that an engine keeps for one Trace, Attention or LogitLens call: keys for attention
    weights, rows for a lens, and the square of the text for a rollout."""
    max_interventions: Count = 64
    """Interventions of one request."""
    max_intervention_value: Magnitude = 1_000_000.0
    """Largest absolute value that an intervention adds or patches in."""
    max_intervention_factor: Magnitude = 100.0
    """Largest absolute factor of an intervention."""
    max_intervention_bytes: Count = 4 * MIB
    """Bytes of the vectors and patched values of one request, in float32."""

    # --- Time ---
    unary_deadline: Seconds = 60.0
    """Seconds for a call without a stream that brings no deadline."""
    stream_deadline: Seconds = 300.0
    """Seconds for a stream that brings no deadline."""
    session_idle: Seconds = 300.0
    """Seconds without a move after which a Decode session is ended; without a text, an EmbedStream
    call; without a request, one of ModelStreamInfer."""
    session_deadline: Seconds = 3600.0
    """Seconds after which these are ended in any case, but for EmbedStream."""
    stalled_stream: Seconds = 30.0
    """Seconds after which a stream that is not read is ended."""
    retry_after: Seconds = 1.0
    """Seconds that a refused caller is told to wait."""
    drain_delay: Pause = 2.0
    """Seconds between reporting NOT_SERVING and refusing calls: longer than it takes the load
    balancer to see it."""
    grace: Pause = 60.0
    """Seconds that running calls may take to end when the server stops."""

    engine_restarts: Annotated[int, Field(ge=0)] = 5
    """Times in a row that an engine which has ended is started again, after 1, 2, 4 ... seconds.
    Then liveness fails, so that a supervisor starts the process anew."""

    # --- Connections ---
    max_streams: Count = 256
    """Calls at once on one connection."""
    keepalive_min_ping: Seconds = 20.0
    """Seconds between pings that a client may send."""
    connection_age: Seconds | None = None
    """Seconds after which a connection takes no more calls, so that clients spread anew. Those that
    run go on, however long."""

    # --- Log and traces ---
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level written; `call` lines always are, of health and reflection those of refusals."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """auto: console on a terminal, JSON lines elsewhere."""
    otlp_endpoint: str | None = None
    """Send a trace of every call to this OpenTelemetry collector, `http://HOST:PORT` or https, by
    OTLP over gRPC (extra `otel`). The OTEL_* variables say the rest, such as what is sampled."""

    @field_validator("models", "manifests", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A variable holds several values with commas between them."""
        return tuple(value.split(",")) if isinstance(value, str) else value

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "http://none")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise ValueError("not http://HOST:PORT or https://HOST:PORT")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [name for name, _ in self.named_sources()]
        if not names or "" in names:
            raise ValueError("models: at least one model, each with a name and a source")
        if len(set(names)) != len(names):
            raise ValueError(f"models: a name is used twice: {', '.join(names)}")
        for entry in self.manifests:
            name, _, file = entry.partition("=")
            if name not in names or not file:
                raise ValueError(f"manifests: not NAME=FILE of a model that is served: {entry}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        if self.tls_cert is None and not self.insecure and not is_loopback(self.host):
            raise ValueError(
                f"host: {self.host} can be reached by other machines and there is no TLS; "
                "set tls_cert and tls_key, or insecure if the network is trusted"
            )
        if self.explorer and not self.insecure and not is_loopback(self.host):
            raise ValueError(
                f"explorer: other machines can reach {self.host}, and the page has neither TLS nor "
                "a login; use a loopback host, or insecure if the network is trusted"
            )
        if self.tensor_parallel > 1 and self.internals and "internals" in self.model_fields_set:
            raise ValueError(
                "internals: a model that several ranks share shows and changes nothing inside; "
                "with tensor_parallel they are off"
            )
        if self.explorer and self.tokens is not None:
            raise ValueError("explorer: the page has no token; it cannot be served with tokens")
        return self

    @property
    def serves_reflection(self) -> bool:
        """Whether it does, as the profile has it."""
        return self.reflection and self._is_wanted("reflection")

    @property
    def serves_internals(self) -> bool:
        """The same."""
        return self.internals and self.tensor_parallel == 1 and self._is_wanted("internals")

    def _is_wanted(self, setting: str) -> bool:
        return self.profile == "development" or setting in self.model_fields_set

    def named_sources(self) -> list[tuple[str, str]]:
        """Each model's name and source."""
        pairs: list[tuple[str, str]] = []
        for entry in self.models:
            name, separator, source = entry.partition("=")
            bare = Path(entry.rstrip("/")).name.removesuffix(".gguf")
            pairs.append((name if source else "", source) if separator else (bare, entry))
        return pairs

    def engine_configs(self) -> tuple[EngineConfig, ...]:
        """One per model, in the order asked."""
        sources = self.named_sources()
        manifests = dict(entry.split("=", 1) for entry in self.manifests)
        threads = self.threads
        sharing = len(sources) * self.tensor_parallel
        if threads is None and sharing > 1:  # one engine alone takes every core by itself
            threads = max(1, len(os.sched_getaffinity(0)) // sharing)
        return tuple(
            EngineConfig(
                name=name,
                source=source,
                cache_dir=str(self.cache_dir.expanduser()),
                manifest=manifests.get(name),
                device=self.device,
                dtype=self.dtype,
                quantization=self.quantization,
                num_threads=threads,
                tensor_parallel=self.tensor_parallel,
                rank_timeout=self.rank_timeout,
                max_num_batched_tokens=self.max_num_batched_tokens,
                max_num_seqs=self.max_num_seqs,
                max_model_len=self.max_model_len,
                block_size=self.block_size,
                kv_cache_bytes=self.kv_cache_bytes,
                prefix_caching=self.prefix_caching,
            )
            for name, source in sources
        )
