"""Calls of every method that get their answers."""

from __future__ import annotations

from typing import Any

from google.protobuf.message_factory import GetMessageClass

import inference_requests as inference
from headstream.v1 import logits_service_pb2, types_pb2
from headstream.v1 import lookup_service_pb2 as lookup_pb
from served_methods import METHODS

TEXT = "The chicken didn't cross the road"
DIMENSIONS = 64  # of the vectors of tiny models


def good(method: str) -> list[Any]:
    """The messages of one call."""
    return good_calls(method)[0]


def good_calls(method: str) -> list[list[Any]]:
    """Calls of a method, each by its messages."""
    if method.startswith("GRPCInferenceService/"):
        return _inference(method)
    if method.startswith("LookupService/"):
        return [[request] for request in _lookup(method)]
    if method == "LogitsService/Decode":
        return [_session()]
    return [[_one(method)]]


def _one(method: str) -> Any:
    text = types_pb2.Input(text=TEXT)
    request: Any = GetMessageClass(METHODS[method].input_type)()
    match method:
        case "LogitsService/Generate":
            request.prompt.CopyFrom(text)
            request.stop.max_new_tokens = 4
            request.logits.mode = logits_service_pb2.LOGITS_MODE_FULL
        case "EmbeddingsService/Embed":
            request.inputs.add().input.CopyFrom(text)
        case "EmbeddingsService/EmbedStream":
            request.items.add(id=3).item.input.CopyFrom(text)
        case "LogitsService/Score":
            request.inputs.append(text)
        case "InternalsService/Trace":
            request.input.CopyFrom(text)
            request.sites.add(name="resid_post", layers=[1])
        case "TokenizerService/Tokenize":
            request.text = text.text
        case "TokenizerService/Detokenize":
            request.ids.extend([5, 6, 7])
        case "ModelService/ListModels" | "ModelService/GetModel":
            pass
        case _:
            request.input.CopyFrom(text)
    return request


def _session() -> list[Any]:
    pb = logits_service_pb2
    return [
        pb.DecodeRequest(id=1, open=pb.DecodeOpen(prompt=types_pb2.Input(text=TEXT))),
        pb.DecodeRequest(id=2, append=pb.DecodeAppend(token_ids=[5, 6])),
        pb.DecodeRequest(id=3, fork=pb.DecodeFork(branch=0)),
        pb.DecodeRequest(id=4, rollback=pb.DecodeRollback(branch=0, length=3)),
    ]


def _inference(method: str) -> list[list[Any]]:
    texts = inference.of_texts([TEXT, "So long"], ["embedding", "token_ids"], pooling="mean")
    ids = inference.of_ids([[5, 6, 7]], ["prompt_logits", "logits_ids"], raw=False, top_k=3)
    continued = inference.of_texts([TEXT], max_new_tokens=4, temperature=0.5, seed=1)
    match method:
        case "GRPCInferenceService/ModelInfer":
            return [[texts], [ids]]
        case "GRPCInferenceService/ModelStreamInfer":
            return [[texts, continued, ids]]
        case _:
            return [[GetMessageClass(METHODS[method].input_type)()]]


def _lookup(method: str) -> list[Any]:
    pb = lookup_pb
    match method:
        case "LookupService/AddDocuments":
            first = pb.Document(id="a", text=f"{TEXT}. So long.", metadata={"lang": "en"})
            second = pb.Document(id="b", text="Thanks for all the fish")
            return [pb.AddDocumentsRequest(documents=[first, second], words=True)]
        case "LookupService/Search":
            filtered = pb.Filter(conditions=[pb.Condition(key="lang", any_of=["en"])])
            word = pb.WordInContext(text=TEXT, same_word=True)
            word.span.start, word.span.end = 4, 11
            return [
                pb.SearchRequest(text=TEXT, filter=filtered),
                pb.SearchRequest(vector=pb.QueryVector(values=[0.5] * DIMENSIONS), exact=True),
                pb.SearchRequest(word=word, limit=3),
            ]
        case "LookupService/DeleteDocuments":
            return [pb.DeleteDocumentsRequest(ids=["a"])]
        case _:
            return [pb.GetStatsRequest()]
