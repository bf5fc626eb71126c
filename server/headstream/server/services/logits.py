"""LogitsService: the next token of a text, in all its ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from headstream.server import grammar_text
from headstream.server.call import current_call
from headstream.server.context import Context
from headstream.server.continuation import continue_prompt
from headstream.server.decode_session import DecodeSession
from headstream.server.errors import InvalidRequest
from headstream.server.first_request import first_request
from headstream.server.metrics import Metrics
from headstream.server.models import LoadedModel, Models
from headstream.server.patches import make_edits
from headstream.server.scorer import Scorer
from headstream.server.sequence_run import tokenize
from headstream.server.wire.budget import check_budget
from headstream.server.wire.constraint import Constraint
from headstream.server.wire.decode import parse_open
from headstream.server.wire.generate import GenerateCall, Reply, check_generated, parse_generate
from headstream.server.wire.inputs import check_length, least_tokens
from headstream.server.wire.interventions import parse_interventions
from headstream.server.wire.model import to_fingerprint
from headstream.server.wire.priority import parse_priority
from headstream.server.wire.score import parse_score
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import logits_service_pb2_grpc, types_pb2


class LogitsService(logits_service_pb2_grpc.LogitsServiceServicer):
    """Next-token logits."""

    def __init__(self, models: Models, metrics: Metrics, session_idle: float) -> None:
        """``session_idle``: seconds that a decoding session may take to make its first move."""
        self._models = models
        self._metrics = metrics
        self._session_idle = session_idle

    async def Generate(  # type: ignore[override]  # noqa: N802 - a message in parts is one to gRPC
        self,
        request: pb.GenerateRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> AsyncIterator[Reply]:
        """Continue a prompt: a start, a step per token, an end."""
        model = self._models.get_for_logits(
            request.model, parse_priority("priority", request.priority), "Generate"
        )
        changes = parse_interventions(request.interventions, model.ready, model.limits)
        parsed = parse_generate(request, model.limits)
        grammar = "" if parsed.constraint is None else await _checked(parsed.constraint)
        least = least_tokens(request.prompt, model.limits)
        with model.queue.enter(parsed.n, least_tokens=least) as tickets:
            tokens = await tokenize(model, parsed.prompt)
            new_tokens = _new_tokens(parsed, len(tokens), model)
            eos = () if parsed.stop.ignore_eos else model.ready.eos_ids
            stop_ids = tuple(dict.fromkeys(parsed.stop.token_ids + eos))
            _check_open(parsed.generated_ids, stop_ids)
            budget = (new_tokens - len(parsed.generated_ids)) * parsed.token_bytes
            check_budget(budget, model.limits, parsed.max_reply_bytes)
            num_read = len(tokens) + len(parsed.generated_ids)
            model.queue.charge(tickets[:1], [num_read])  # the prompt is computed once
            edits = await make_edits(model, self._metrics, changes, tickets)
            replies = continue_prompt(
                model,
                self._metrics,
                tickets,
                parsed,
                tokens.ids,
                max_new_tokens=new_tokens,
                sampling=parsed.sampling,
                stop_token_ids=stop_ids,
                min_new_tokens=parsed.stop.min_new_tokens,
                grammar=grammar,
                outputs=parsed.outputs,
                output_ids=parsed.generated_ids,
                edits=edits,
            )
            async with aclosing(replies):
                yield _start(model, parsed, tokens.ids, budget)
                async for reply in replies:
                    yield reply

    async def Score(  # noqa: N802 - named by the contract
        self,
        request: pb.ScoreRequest,
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> AsyncIterator[pb.ScoreResponse]:
        """How likely each token of given texts is: a start, ranges of positions, an end."""
        model = self._models.get_for_logits(
            request.model, parse_priority("priority", request.priority), "Score"
        )
        changes = parse_interventions(request.interventions, model.ready, model.limits)
        parsed = parse_score(request, model.limits)
        scorer = Scorer(model, self._metrics, parsed, changes)
        async with aclosing(scorer.replies()) as replies:
            async for reply in replies:
                yield reply

    async def Decode(  # noqa: N802 - named by the contract
        self,
        request_iterator: AsyncIterator[pb.DecodeRequest],
        context: Context,  # noqa: ARG002 - gRPC hands it over
    ) -> AsyncIterator[pb.DecodeResponse]:
        """A session: the client chooses the tokens, the rows behind them come back."""
        first = await first_request(request_iterator, self._session_idle, "move")
        if first is None:
            return
        if not first.HasField("open"):
            raise InvalidRequest("open", "the first move must be open")
        model = self._models.get_for_logits(
            first.open.model, parse_priority("open.priority", first.open.priority), "Decode"
        )
        changes = parse_interventions(
            first.open.interventions, model.ready, model.limits, prefix="open."
        )
        opened = parse_open(first, model.limits)
        with model.queue.enter() as tickets:
            tokens = await tokenize(model, opened.prompt)
            opened.check_prompt(len(tokens), model.limits)
            model.queue.charge(tickets, [len(tokens)])
            edits = await make_edits(model, self._metrics, changes, tickets)
            session = DecodeSession(model, self._metrics, opened, tickets[0], edits)
            async with aclosing(session.replies(tokens.ids, request_iterator)) as replies:
                async for reply in replies:
                    yield reply


async def _checked(constraint: Constraint) -> str:
    """The grammar, if it is one; looked at in a thread."""
    if message := await asyncio.to_thread(grammar_text.problem, constraint.grammar):
        raise InvalidRequest(constraint.field, message)
    return constraint.grammar


def _new_tokens(parsed: GenerateCall, prompt_len: int, model: LoadedModel) -> int:
    """Most tokens to generate: as asked, or as the context allows where nothing was asked."""
    check_length("prompt", prompt_len, model.limits)
    wanted = parsed.stop.max_new_tokens
    if parsed.stop.may_clip:
        wanted = max(1, min(wanted, model.limits.max_model_len - prompt_len))
    check_length("prompt", prompt_len, model.limits, new_tokens=wanted)
    check_generated(parsed.generated_ids, wanted)
    return wanted


def _check_open(generated_ids: tuple[int, ...], stop_ids: tuple[int, ...]) -> None:
    """Refuse a continuation that had ended."""
    for i, token_id in enumerate(generated_ids):
        if token_id in stop_ids:
            raise InvalidRequest(f"generated_token_ids[{i}]", f"{token_id} is a stop token")


def _start(
    model: LoadedModel, parsed: GenerateCall, prompt: tuple[int, ...], budget: int
) -> pb.GenerateResponse:
    start = pb.GenerateStart(
        request_id=current_call().request_id,
        fingerprint=to_fingerprint(model.name, model.ready),
        prompt=types_pb2.TokenIds(ids=prompt),
        seed=parsed.sampling.seed,
        seeds=parsed.seeds,
        max_tensor_bytes=budget,
    )
    return pb.GenerateResponse(start=start)
