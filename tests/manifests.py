"""Manifests of deploy/, rendered by kustomize and held against the schemas of Kubernetes."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from proxy_process import DEPLOY, find_program

VERSION = "1.37"
# Of kinds that Kubernetes itself does not know: the parts of their schemas that are used here.
SCHEMAS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "deploy" / "crd_schemas.json").read_text()
)

Manifest = dict[str, Any]


def render(folder: str) -> dict[str, Manifest]:
    """One of each kind; ``folder`` of deploy/."""
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(_kustomize(folder))}


@functools.cache
def _kustomize(folder: str) -> str:
    command = [find_program("kubectl"), "kustomize", str(DEPLOY / folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check(*manifests: Manifest) -> None:
    """Raises what the schemas say against one of them."""
    for manifest in manifests:
        if manifest["kind"] in SCHEMAS:
            jsonschema.validate(manifest, SCHEMAS[manifest["kind"]])
        else:
            kubernetes_validate.validate(manifest, VERSION, strict=True)
