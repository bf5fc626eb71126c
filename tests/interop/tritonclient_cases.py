"""The cases with tritonclient, unchanged: ADDRESS TOKEN CASES as arguments, a line of JSON each.

Runs in .venv-interop, which knows nothing of Headstream. CASES is a file of what is sent.
"""

from __future__ import annotations

import base64
import json
import queue
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton  # pyright: ignore[reportMissingImports]
from tritonclient.utils import (  # pyright: ignore[reportMissingImports]
    InferenceServerException,
)


class Cases:
    def __init__(self, address: str, token: str, make: dict[str, Any]) -> None:
        self._client = triton.InferenceServerClient(address)
        self._headers = {"authorization": f"Bearer {token}"}
        self._make = make

    def all(self) -> dict[str, Callable[[], Any]]:
        return {
            "unary": self.unary,
            "server_stream": self.server_stream,
            "bidi": self.bidi,
            "error_details": lambda: self._infer(parameters={"layer": 99}),
            "deadline": self.deadline,
            "cancel": self.cancel,
            "large_reply": self.large_reply,
            "too_large": lambda: self._infer(["x" * self._make["too_large"]]),
            "wrong_token": lambda: self._infer(headers={"authorization": "Bearer hs_x"}),
            "gzip": lambda: self.unary(compression_algorithm="gzip"),
            "health": self.health,
            "unknown_method": lambda: self._client.get_model_repository_index(self._headers),
        }

    def _infer(
        self,
        texts: list[str] | None = None,
        output: str = "embedding",
        **options: Any,
    ) -> Any:
        inputs, outputs = self._tensors(texts or [self._make["text"]], output)
        options = {"headers": self._headers, "client_timeout": self._make["long"], **options}
        return self._client.infer("tiny", inputs, outputs=outputs, **options).as_numpy(output)

    def _tensors(self, texts: list[str], output: str) -> Any:
        tensor = triton.InferInput("text", [len(texts)], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode() for text in texts], object))
        return [tensor], [triton.InferRequestedOutput(output)]

    def unary(self, **options: Any) -> str:
        return base64.b64encode(self._infer(**options).tobytes()).decode()

    def large_reply(self) -> int:
        rows = self._infer(["a"] * self._make["rows"], "logits")
        return int(rows.shape[0])

    def server_stream(self) -> list[int]:
        tokens: list[int] = []
        for result in self._stream([self._make["text"]], self._make["short"]):
            ids = result.as_numpy("token_ids")
            if ids is not None:
                tokens.append(int(ids.item()))
        return tokens

    def bidi(self) -> list[int]:
        ids = [int(r.get_response().id) for r in self._stream(self._make["texts"], None)]
        return sorted(ids)

    def _stream(self, texts: list[str], num_tokens: int | None) -> list[Any]:
        """The answers to one request for each text, until the last is final."""
        answers, open_requests = queue.Queue[Any](), len(texts)
        self._start(answers)
        for number, text in enumerate(texts, 1):
            self._send(text, number, num_tokens)
        results: list[Any] = []
        while open_requests:
            results.append(_taken(answers))
            response = results[-1].get_response()
            open_requests -= response.parameters["triton_final_response"].bool_param
        self._client.stop_stream()
        return results

    def _start(self, answers: queue.Queue[Any]) -> None:
        self._client.start_stream(
            lambda result, error: answers.put(error or result),
            headers=self._headers,
            stream_timeout=self._make["long"],
        )

    def _send(self, text: str, number: int, num_tokens: int | None) -> None:
        inputs, outputs = self._tensors([text], "token_ids" if num_tokens else "embedding")
        parameters: dict[str, Any] = {}
        if num_tokens:
            parameters = {"max_new_tokens": num_tokens, "ignore_eos": True}
            parameters["frequency_penalty"] = 2.0
        self._client.async_stream_infer(
            "tiny", inputs, outputs=outputs, request_id=str(number), parameters=parameters or None
        )

    def deadline(self) -> Any:
        answers = queue.Queue[Any]()
        self._client.start_stream(
            lambda result, error: answers.put(error or result),
            headers=self._headers,
            stream_timeout=self._make["soon"],
        )
        self._send(self._make["text"], 1, self._make["endless"])
        try:
            while _taken(answers):
                pass
        finally:
            self._client.stop_stream()

    def cancel(self) -> Any:
        answers = queue.Queue[Any]()
        self._start(answers)
        self._send(self._make["text"], 1, self._make["endless"])
        _taken(answers)
        self._client.stop_stream(cancel_requests=True)
        while _taken(answers):
            pass

    def health(self) -> str:
        told = (
            self._client.is_server_live(self._headers),
            self._client.is_server_ready(self._headers),
            self._client.is_model_ready("tiny", headers=self._headers),
            self._client.get_server_metadata(self._headers).name == "headstream",
            self._client.get_model_metadata("tiny", headers=self._headers).versions == ["1"],
        )
        return "SERVING" if all(told) else str(told)


def _taken(answers: queue.Queue[Any]) -> Any:
    answer = answers.get(timeout=120)
    if isinstance(answer, InferenceServerException):
        raise answer
    return answer


def main(address: str, token: str, cases: str) -> None:
    make = json.loads(Path(cases).read_text())
    for name, case in Cases(address, token, make).all().items():
        try:
            seen = {"code": "OK", "value": case()}
        except InferenceServerException as error:
            code = str(error.status()).removeprefix("StatusCode.")
            # It keeps the message alone, which begins with the field.
            field = (error.message() or "").split(":")[0]
            seen = {"code": code, "value": field if field.startswith("parameters.") else None}
        print(json.dumps({"case": name, **seen}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
