"""The manifests, rendered by kustomize and held against the schemas of Kubernetes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from headstream.server.config import Settings
from headstream.server.listener import service_names
from manifests import Manifest, check
from manifests import render as manifests_of

FOLDERS = ["base", "overlays/cpu", "overlays/gpu", "overlays/gateway", "overlays/keda"]


def render(folder: str) -> dict[str, Manifest]:
    return manifests_of(f"kubernetes/{folder}")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_manifest_keeps_to_its_schema(folder: str) -> None:
    manifests = render(folder)
    assert manifests.keys() >= {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    check(*manifests.values())


def pod(manifests: dict[str, Manifest]) -> Any:
    return manifests["Deployment"]["spec"]["template"]["spec"]


def container(manifests: dict[str, Manifest]) -> Any:
    [only] = pod(manifests)["containers"]
    return only


MISTAKES: dict[str, Callable[[dict[str, Manifest]], Any]] = {
    "an unknown field": lambda m: container(m).update(readyProbe={}),
    "a port that is text": lambda m: m["Service"]["spec"]["ports"][0].update(port="grpc"),
    "no image's name": lambda m: container(m).pop("name"),
    "no selector": lambda m: m["Deployment"]["spec"].pop("selector"),
    "a grace that is text": lambda m: pod(m).update(terminationGracePeriodSeconds="80s"),
    "a probe of a service": lambda m: container(m)["livenessProbe"].update(grpc={"service": ""}),
    "rules that are no list": lambda m: m["NetworkPolicy"]["spec"].update(ingress={}),
    "a budget misspelt": lambda m: m["PodDisruptionBudget"]["spec"].update(maxUnavailible=1),
    "a route without a backend's name": lambda m: m["GRPCRoute"]["spec"]["rules"][0]["backendRefs"][
        0
    ].pop("name"),
    "a route with a timeout": lambda m: m["GRPCRoute"]["spec"]["rules"][0].update(timeouts={}),
    "a policy with an unknown check": lambda m: m["BackendTrafficPolicy"]["spec"]["healthCheck"][
        "active"
    ].update(type="gRPC"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(mistake: str) -> None:
    """Negative control."""
    manifests = render("overlays/gateway")
    MISTAKES[mistake](manifests)
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        check(*manifests.values())


def test_a_scaler_without_a_threshold_is_seen() -> None:
    manifest = render("overlays/keda")["ScaledObject"]
    del manifest["spec"]["triggers"][0]["metadata"]["threshold"]
    with pytest.raises(jsonschema.ValidationError):
        check(manifest)


def test_the_settings_are_settings_and_leave_time_to_drain() -> None:
    manifests = render("base")
    text = manifests["ConfigMap"]["data"]["headstream.yaml"]
    settings = Settings(**yaml.safe_load(text))
    spec = pod(manifests)
    assert spec["terminationGracePeriodSeconds"] >= settings.drain_delay + settings.grace + 10
    probe = container(manifests)["readinessProbe"]
    seen_after = (probe["periodSeconds"] + probe["timeoutSeconds"]) * probe["failureThreshold"]
    assert settings.drain_delay > seen_after
    ports = {port["name"]: port["containerPort"] for port in container(manifests)["ports"]}
    assert ports == {"grpc": settings.port, "metrics": settings.admin_port}
    assert spec["enableServiceLinks"] is False, "HEADSTREAM_PORT of a Service is no port"


def test_selectors_say_what_they_mean() -> None:
    manifests = render("overlays/gateway")
    labels = {"app.kubernetes.io/name": "headstream"}
    assert manifests["Service"]["spec"]["selector"] == labels
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert manifests[kind]["spec"]["selector"] == {"matchLabels": labels}
    policy = manifests["NetworkPolicy"]["spec"]
    assert policy["podSelector"] == {"matchLabels": labels}
    [clients, gateway] = policy["ingress"][0]["from"]
    assert clients["podSelector"]["matchLabels"] == {"headstream-client": "true"}
    assert "namespaceSelector" in gateway


def test_the_container_may_do_little() -> None:
    manifests = render("overlays/gpu")
    assert pod(manifests)["securityContext"]["runAsNonRoot"] is True
    context = container(manifests)["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}


def test_the_route_has_every_service_of_the_contract() -> None:
    [rule] = render("overlays/gateway")["GRPCRoute"]["spec"]["rules"]
    assert sorted(match["method"]["service"] for match in rule["matches"]) == sorted(
        service_names(Settings())
    )


def test_the_scaler_sets_the_number_of_pods_alone() -> None:
    assert "replicas" not in render("overlays/keda")["Deployment"]["spec"]
