"""The served models by name, each with its engine, tokenizer, limits and queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from headstream.server.admission import Admission
from headstream.server.call import current_call
from headstream.server.config import Settings
from headstream.server.engine.handle import EngineHandle
from headstream.server.engine.messages import Loading, Ready, StepReport, Vocabulary
from headstream.server.engine.priority import Priority
from headstream.server.engine.state import EngineState
from headstream.server.errors import (
    EngineStartError,
    EngineUnavailable,
    ModelLoading,
    ModelNotFound,
    NotServed,
)
from headstream.server.limits import Limits, resolve_limits
from headstream.server.session_tokens import AllSessions
from headstream.server.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that answers."""

    name: str
    handle: EngineHandle
    ready: Ready
    tokenizer: TextTokenizer
    limits: Limits
    queue: Admission
    sessions: AllSessions


class ServedModel:
    """A configured model, loaded or not yet."""

    def __init__(self, handle: EngineHandle) -> None:
        self.name = handle.config.name
        self.handle = handle
        self.loaded: LoadedModel | None = None
        handle.add_listener(self._note_step)

    @property
    def serving(self) -> bool:
        """Whether it answers now: the engine runs, and its tokenizer is the one that was read."""
        if self.loaded is None or self.loaded.ready is not self.handle.ready:
            return False
        return self.handle.state is EngineState.SERVING

    def _note_step(self, report: StepReport) -> None:
        """What leaves the queue tells the engine's pace only while somebody waits for it."""
        if self.loaded is not None and not report.stats.waiting:
            self.loaded.queue.pace.begin()

    async def start(self, settings: Settings, on_progress: Callable[[Loading], None]) -> None:
        """Start the engine, then read the tokenizer that lies beside its weights."""
        await self.handle.start(on_progress)
        ready = self.handle.ready
        if ready is None:
            raise EngineStartError(f"{self.name}: the engine started without saying what it holds")
        tokenizer = await asyncio.to_thread(TextTokenizer.from_directory, Path(ready.directory))
        if ready.unembeds:
            self.handle.teach(
                Vocabulary(
                    tokens=await asyncio.to_thread(tokenizer.surfaces.list, ready.d_vocab),
                    special_ids=tuple(sorted(tokenizer.surfaces.special_ids)),
                    eos_ids=ready.eos_ids,
                )
            )
        limits = resolve_limits(settings, ready)
        self.loaded = LoadedModel(
            name=self.name,
            handle=self.handle,
            ready=ready,
            tokenizer=tokenizer,
            limits=limits,
            queue=Admission(
                limits.max_queued_requests, limits.max_queued_tokens, settings.retry_after
            ),
            sessions=AllSessions(limits.max_all_session_tokens),
        )


class Models:
    """All of them; the first answers requests that name none."""

    def __init__(self, models: list[ServedModel]) -> None:
        self._models = {model.name: model for model in models}
        self._first = models[0]

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    @property
    def serving(self) -> bool:
        """Whether all have been loaded and one of them answers: a dead one takes no other along."""
        loaded = all(model.loaded is not None for model in self)
        return loaded and any(model.serving for model in self)

    def find(self, name: str) -> ServedModel:
        """The model of that name.

        Raises:
            ModelNotFound: There is none.
        """
        model = self._models.get(name) if name else self._first
        if model is None:
            raise ModelNotFound(f"model: no model of this name is served: {name[:100]!r}")
        return model

    def get(self, name: str, priority: Priority = Priority.NORMAL) -> LoadedModel:
        """The model of that name, ready to answer; notes it as the call's, and how urgent that is.

        Raises:
            ModelNotFound: There is none.
            ModelLoading: Not yet.
            EngineUnavailable: Not now: its engine has ended, and may be starting again.
        """
        model = self.find(name)
        call = current_call()
        call.model = model.name
        call.ask_priority(priority)
        if model.loaded is None and model.handle.state in {
            EngineState.LOADING,
            EngineState.SERVING,
        }:
            raise ModelLoading("the model is being loaded")
        if model.loaded is None or not model.serving:
            raise EngineUnavailable("the engine of this model has stopped")
        return model.loaded

    def get_for_logits(self, name: str, priority: Priority, method: str) -> LoadedModel:
        """The same, for a method that needs next-token logits.

        Raises:
            NotServed: The model gives vectors only.
        """
        model = self.get(name, priority)
        if not model.ready.unembeds:
            raise NotServed(
                f"{method}: {model.name!r} ({model.ready.architecture}) "
                "gives no logits, only vectors"
            )
        return model
