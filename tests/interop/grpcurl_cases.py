"""The cases with grpcurl: PROGRAM ADDRESS TOKEN CASES on the command line, a line of JSON each.

It learns the contract by reflection. CASES is a file of what is sent.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

EMBEDDINGS = "headstream.v1.EmbeddingsService"
LOGITS = "headstream.v1.LogitsService"
TOKENIZER = "headstream.v1.TokenizerService"
# A method that the server does not have: grpcurl calls none that nothing describes.
UNKNOWN = """\
syntax = "proto3";
package headstream.v1;
message Nothing {}
service EmbeddingsService { rpc Unknown(Nothing) returns (Nothing); }
"""
CODES = {  # as grpcurl spells them
    "InvalidArgument": "INVALID_ARGUMENT",
    "DeadlineExceeded": "DEADLINE_EXCEEDED",
    "ResourceExhausted": "RESOURCE_EXHAUSTED",
    "Unauthenticated": "UNAUTHENTICATED",
    "Unimplemented": "UNIMPLEMENTED",
}


class CallFailedError(Exception):
    """With its code, and what grpcurl printed."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code)
        self.code = code
        self.text = text


class Cases:
    def __init__(self, program: str, address: str, token: str, make: dict[str, Any]) -> None:
        self._program = program
        self._address = address
        self._token = token
        self._make = make

    def all(self) -> dict[str, Callable[[], Any]]:
        make = self._make
        return {
            "unary": lambda: self._embed()["results"][0]["embedding"]["vectors"]["data"],
            "server_stream": self.server_stream,
            "bidi": self.bidi,
            "error_details": lambda: self._call(f"{EMBEDDINGS}/Embed", make["embed_bad"]),
            "deadline": self.deadline,
            "cancel": self.cancel,
            "large_reply": self.large_reply,
            "too_large": lambda: self._tokenize("x" * make["too_large"]),
            "metadata": self.metadata,
            "wrong_token": lambda: self._call(f"{EMBEDDINGS}/Embed", make["embed"], token="hs_x"),
            "reflection": lambda: make["service"] in self._run("list").split(),
            "health": lambda: self._call("grpc.health.v1.Health/Check", {})[0]["status"],
            "unknown_method": self.unknown_method,
        }

    def _embed(self) -> Any:
        return self._call(f"{EMBEDDINGS}/Embed", self._make["embed"])[0]

    def _tokenize(self, text: str) -> Any:
        return self._call(f"{TOKENIZER}/Tokenize", {"text": text})[0]

    def server_stream(self) -> list[int]:
        events = self._call(f"{LOGITS}/Generate", self._make["generate_short"])
        return [_token(event["step"]) for event in events if "step" in event]

    def bidi(self) -> list[int]:
        replies = self._call(f"{EMBEDDINGS}/EmbedStream", *self._make["stream"])
        return sorted(int(each["id"]) for reply in replies for each in reply.get("answers", ()))

    def deadline(self) -> Any:
        flags = ("-max-time", "1")  # its reflection is within it
        return self._call(f"{LOGITS}/Generate", self._make["generate_endless"], flags=flags)

    def cancel(self) -> Any:
        """Who ends it cancels the call."""
        command = self._command("-d", json.dumps(self._make["generate_endless"]))
        process = subprocess.Popen([*command, f"{LOGITS}/Generate"], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline()
            process.terminate()
        process.wait()
        raise CallFailedError("CANCELLED", "")

    def large_reply(self) -> int:
        return len(self._tokenize(self._make["large"])["tokens"]["ids"])

    def metadata(self) -> str:
        given = ("-v", "-d", json.dumps(self._make["embed"]), f"{EMBEDDINGS}/Embed")
        received = self._run(*given).partition("Response headers received:")[2]
        [line] = [each for each in received.splitlines() if each.startswith("x-request-id: ")]
        return line.removeprefix("x-request-id: ")

    def unknown_method(self) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "unknown.proto").write_text(UNKNOWN)
            flags = ("-import-path", folder, "-proto", "unknown.proto")
            return self._call(self._make["unknown"], {}, flags=flags)

    def _command(self, *flags: str, token: str | None = None) -> list[str]:
        command = [self._program, "-plaintext", "-max-msg-sz", str(16 << 20)]
        command += ["-reflect-header", f"authorization: Bearer {self._token}"]
        command += ["-rpc-header", f"authorization: Bearer {token or self._token}"]
        command += ["-rpc-header", f"x-request-id: {self._make['request_id']}"]
        return [*command, *flags, self._address]

    def _call(
        self, method: str, *messages: Any, flags: tuple[str, ...] = (), token: str | None = None
    ) -> list[Any]:
        """The replies to some messages."""
        sent = "".join(json.dumps(message) for message in messages)
        command = [*self._command("-d", "@", *flags, token=token), method]
        return _documents(_finished(_ran(command, sent)))

    def _run(self, *arguments: str) -> str:
        *flags, last = arguments
        return _finished(_ran([*self._command(*flags), last], ""))


def _token(step: dict[str, Any]) -> int:
    """A zero is left out; reflection does not tell how JSON spells the name."""
    return step.get("token_id", step.get("tokenId", 0))


def _ran(command: list[str], sent: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=sent, capture_output=True, text=True, check=False, timeout=120
    )


def _finished(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode == 0:
        return done.stdout
    for line in done.stderr.splitlines():
        name, _, value = line.strip().partition(": ")
        if name == "Code":
            raise CallFailedError(CODES.get(value, value), done.stderr)
    raise CallFailedError(done.stderr.strip()[:200], done.stderr)


def _documents(text: str) -> list[Any]:
    decoder, at, found = json.JSONDecoder(), 0, list[Any]()
    while at < len(text.rstrip()):
        document, end = decoder.raw_decode(text, at)
        found.append(document)
        at = end + len(text[end:]) - len(text[end:].lstrip())
    return found


def main(program: str, address: str, token: str, cases: str) -> None:
    make = json.loads(Path(cases).read_text())
    for name, case in Cases(program, address, token, make).all().items():
        try:
            seen = {"code": "OK", "value": case()}
        except CallFailedError as failed:
            field = make["bad_field"] if make["bad_field"] in failed.text else None
            seen = {"code": failed.code, "value": field}
        print(json.dumps({"case": name, **seen}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
