"""Which calls begin alike, told to a load balancer: one replica's prefix cache serves them."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from headstream.client._inputs import Message, Text

PREFIX_KEY = "headstream-prefix"
_DIGEST_BYTES = 16


class Connected(Protocol):
    """A connection that metadata can be added to."""

    def with_metadata(self, key: str, value: str) -> Self:
        """The same channel, with one more pair sent with every call."""
        ...


ConnectedT = TypeVar("ConnectedT", bound=Connected)


class PrefixSharing(Generic[ConnectedT]):
    """The part of a client that says which calls begin alike."""

    _rpc: ConnectedT

    def for_prefix(self, text: Text, *, length: int = 256) -> Self:
        """This client over the same connection, for calls whose texts begin as `text` does.

            support = client.for_prefix(instructions)
            support.generate(instructions + question)

        With every call it sends `headstream-prefix`, a digest of the beginning. Behind a load
        balancer that hashes it (`deploy/envoy`, `deploy/haproxy`) such calls meet at one server,
        and what they share is kept in one prefix cache instead of all. Servers do not read it.

        Args:
            text: The shared beginning, a whole prompt, or any name for it; token ids or a chat too.
            length: How much of it counts: characters (of the contents of a chat), or token ids.
                What all such prompts share should be at least so long.

        Raises:
            ValueError: `length` is less than 1.
        """
        if length < 1:
            raise ValueError(f"length: {length} is less than 1")
        client = copy.copy(self)
        client._rpc = self._rpc.with_metadata(PREFIX_KEY, _digest(text, length))  # noqa: SLF001 - it is one of us
        return client


def _digest(text: Text, length: int) -> str:
    """Of the first characters or ids: what the text says is not in it."""
    if isinstance(text, str):
        parts = [text[:length]]
    elif text and isinstance(text[0], Mapping):
        parts = list(_beginning(cast("Sequence[Message]", text), length))
    else:
        parts = [str(token_id) for token_id in itertools.islice(text, length)]
    data = "\0".join(parts).encode(errors="surrogatepass")
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def _beginning(messages: Sequence[Message], length: int) -> Iterator[str]:
    """Roles and contents, until so many characters of contents."""
    for message in messages:
        content = message.get("content", "")[:length]
        yield from (message.get("role", ""), content)
        length -= len(content)
        if not length:
            return
