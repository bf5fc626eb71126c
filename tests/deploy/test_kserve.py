"""The InferenceService: its own fields by KServe's schema, those of its pod by Kubernetes' own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from headstream.server.config_sources import load_settings
from manifests import SCHEMAS, Manifest, check, render

OF_KSERVE = set(
    SCHEMAS["InferenceService"]["properties"]["spec"]["properties"]["predictor"]["properties"]
) - {"containers"}


def check_service(manifest: Manifest) -> None:
    """KServe makes a pod of what is not its own."""
    check(manifest)
    predictor = manifest["spec"]["predictor"]
    spec = {name: value for name, value in predictor.items() if name not in OF_KSERVE}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": spec}
    check(pod)


@pytest.fixture
def service() -> Manifest:
    manifests = render("kserve")
    assert list(manifests) == ["InferenceService"]
    return copy.deepcopy(manifests["InferenceService"])


def container(service: Manifest) -> Any:
    [only] = service["spec"]["predictor"]["containers"]
    return only


def test_it_keeps_to_its_schemas(service: Manifest) -> None:
    check_service(service)


MISTAKES: dict[str, Callable[[Manifest], Any]] = {
    "a scale that is no metric": lambda m: m["spec"]["predictor"].update(scaleMetric="queue"),
    "no containers": lambda m: m["spec"]["predictor"].pop("containers"),
    "an unknown mode": lambda m: m["metadata"]["annotations"].update(
        {"serving.kserve.io/deploymentMode": "Plain"}
    ),
    "a field of the pod misspelt": lambda m: m["spec"]["predictor"].update(volume=[]),
    "a port that is text": lambda m: container(m)["ports"][0].update(containerPort="grpc"),
    "a predictor beside the spec": lambda m: m.update(predictor={}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(service: Manifest, mistake: str) -> None:
    """Negative control."""
    MISTAKES[mistake](service)
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        check_service(service)


def test_its_arguments_are_settings_and_leave_time_to_drain(service: Manifest) -> None:
    settings = load_settings(container(service)["args"])
    assert settings.open_inference
    assert [name for name, _ in settings.named_sources()] == [service["metadata"]["name"]]
    predictor = service["spec"]["predictor"]
    grace = predictor["terminationGracePeriodSeconds"]
    assert grace >= settings.drain_delay + settings.grace + 10
    probe = container(service)["readinessProbe"]
    seen_after = (probe["periodSeconds"] + probe["timeoutSeconds"]) * probe["failureThreshold"]
    assert settings.drain_delay > seen_after
    assert container(service)["ports"][0]["containerPort"] == settings.port
    assert container(service)["livenessProbe"]["httpGet"]["port"] == settings.admin_port
    assert container(service)["securityContext"]["readOnlyRootFilesystem"] is True
