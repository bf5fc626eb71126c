"""The answer to one text of an `embed_stream`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Self, TypeVar

from headstream.client._errors import FailedItem
from headstream.client._text_embedding import TextEmbedding

if TYPE_CHECKING:
    from headstream.client._results import Array
    from headstream.client._text_embedding import EmbedResult

IdT = TypeVar("IdT")


class EmbedAnswer(tuple[IdT, "Array | FailedItem"], Generic[IdT]):
    """A pair of an id and a vector [d], or a `FailedItem`.

    `result` has the vector with how it was made, as of `embed_each`; or the same `FailedItem`.
    """

    result: EmbedResult

    def __new__(cls, own_id: IdT, result: EmbedResult) -> Self:
        """The pair that a result makes."""
        vector = result if isinstance(result, FailedItem) else result.vectors
        answer = super().__new__(cls, (own_id, vector))
        answer.result = result
        return answer

    def __reduce__(self) -> tuple[type[EmbedAnswer[IdT]], tuple[IdT, EmbedResult]]:
        """For copies and other processes: what `__new__` takes."""
        return type(self), (self[0], self.result)

    @property
    def truncated(self) -> bool:
        """The text was cut, to `result.num_tokens`."""
        return isinstance(self.result, TextEmbedding) and self.result.truncated
