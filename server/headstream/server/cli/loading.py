"""The start of a server, shown as it goes on: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from headstream.server.cli.views import server as views


class LoadingDisplay:
    """Shows stages of the start. What is written to stderr meanwhile appears above the bars."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28, complete_style="cyan", finished_style="green"),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def start(self) -> None:
        """Begin to show; the first word of a server comes after some seconds."""
        self._bars.start()
        self.update("starting", 0, 1)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def update(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` parts of a stage are over. A total of 1 has no parts."""
        if stage not in self._tasks:
            self._close_moving()
            self._tasks[stage] = self._add(stage)
        self._bars.update(self._tasks[stage], completed=done, total=_total(done, total))

    def finish(self) -> None:
        """All stages are over, whatever the last word of each was."""
        self._close_moving()
        for task in self._bars.tasks:
            self._bars.update(task.id, completed=task.total)
        self.stop()

    def stop(self) -> None:
        """Leave the bars as they are; more may be written below."""
        self._bars.stop()

    def _close_moving(self) -> None:
        """Stages without parts are over when the next begins, whether or not they say so."""
        for task in self._bars.tasks:
            if task.total is None:
                self._bars.update(task.id, completed=1, total=1)

    def _add(self, stage: str) -> TaskID:
        words = views.stage(stage)
        if not self._console.is_terminal:
            self._console.print(words)
        return self._bars.add_task(f"{words:<30}", total=None)


def _total(done: int, total: int) -> int | None:
    """None, for a bar that only moves, while a stage without parts goes on."""
    return None if total == 1 and done == 0 else total
