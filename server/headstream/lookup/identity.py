"""Which vectors a store holds: those of one model, made in one way."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from headstream.client import Fingerprint, ModelInfo

FIELDS = ("weights_sha256", "dtype", "quantization")
"""Of a fingerprint, what makes vectors others. Kernels of another backend round otherwise, by less
than the index does; a served name is only a name."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What must stay the same for vectors to be comparable."""

    fingerprint: Fingerprint
    dimensions: int
    pooling: str  # of chunks and words, from their tokens
    query_prompt: str  # name of the prompt before texts to search for; empty: none
    document_prompt: str  # and before documents

    @classmethod
    def of(cls, info: ModelInfo) -> Identity:
        """That of a served model."""
        prompts = info.embedding.prompts
        names = ("document", "passage")
        return cls(
            fingerprint=info.fingerprint,
            dimensions=info.sizes.dimensions,
            # Late chunking is a mean over the tokens of a span. Models that were trained on their
            # last or first token keep to it: for them that is the row which carries the meaning.
            pooling=info.embedding.pooling,
            query_prompt="query" if "query" in prompts else "",
            document_prompt=next((name for name in names if name in prompts), ""),
        )

    @property
    def digest(self) -> str:
        """SHA-256 over all that matters, in hexadecimal."""
        return hashlib.sha256(json.dumps(self._essence(), sort_keys=True).encode()).hexdigest()

    def difference(self, other: Identity) -> str:
        """What of ``other`` is not as here, in words; empty where vectors are comparable."""
        mine, theirs = self._essence(), other._essence()
        return "; ".join(
            f"{name} is {theirs[name]!r}, was {mine[name]!r}"
            for name in mine
            if mine[name] != theirs[name]
        )

    def to_json(self) -> str:
        """For the store."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Identity:
        """From the store."""
        values: Any = json.loads(text)
        values["fingerprint"] = Fingerprint(**values["fingerprint"])
        return cls(**values)

    def _essence(self) -> dict[str, str | int]:
        values: dict[str, str | int] = {name: getattr(self.fingerprint, name) for name in FIELDS}
        return values | {
            "dimensions": self.dimensions,
            "pooling": self.pooling,
            "query_prompt": self.query_prompt,
            "document_prompt": self.document_prompt,
        }
