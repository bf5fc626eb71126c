from __future__ import annotations

from pathlib import Path

import pytest

from headstream.access.loopback import is_loopback
from headstream.server.config import Settings
from headstream.server.config_sources import load_settings
from headstream.server.errors import ConfigError


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADSTREAM_PORT", raising=False)


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.admin_port) == ("127.0.0.1", 50051, 9090)
    [config] = settings.engine_configs()
    assert config.name == config.source == settings.models[0]


@pytest.mark.parametrize(("flags", "on"), [([], True), (["--no-prefix-caching"], False)])
def test_prefix_caching_is_on_unless_it_is_turned_off(flags: list[str], on: bool) -> None:
    [config] = load_settings(flags).engine_configs()
    assert config.prefix_caching is on


def test_quantization_is_named_like_every_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "headstream.yaml"
    path.write_text("quantization: int8\n")

    def chosen(flags: list[str], path: Path | None = None) -> str:
        [config] = load_settings(flags, path).engine_configs()
        return config.quantization

    assert chosen([]) == "none"
    assert chosen(["--quantization", "int8"]) == chosen([], path) == "int8"
    monkeypatch.setenv("HEADSTREAM_QUANTIZATION", "int8")
    assert chosen([]) == "int8"
    with pytest.raises(ConfigError, match="quantization"):
        load_settings(["--quantization", "int4"])


def test_flag_over_variable_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "headstream.yaml"
    path.write_text("port: 1\nadmin_port: 2\nmax_inputs: 3\n")
    monkeypatch.setenv("HEADSTREAM_PORT", "10")
    monkeypatch.setenv("HEADSTREAM_ADMIN_PORT", "20")
    settings = load_settings(["--port", "100"], path)
    assert (settings.port, settings.admin_port, settings.max_inputs) == (100, 20, 3)
    assert load_settings([], path, port=1000).port == 1000


def test_several_models(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(["--models", "b", "--models", "c=/d"])
    assert settings.named_sources() == [("b", "b"), ("c", "/d")]
    assert [config.name for config in settings.engine_configs()] == ["b", "c"]
    monkeypatch.setenv("HEADSTREAM_MODELS", "b,c=/d")
    assert load_settings().models == settings.models


def test_manifests_go_to_their_models() -> None:
    flags = ["--models", "a", "--models", "b=/c", "--manifests", "b=/d=e"]
    assert [config.manifest for config in load_settings(flags).engine_configs()] == [None, "/d=e"]


def test_engines_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(5)))

    def threads(*flags: str) -> list[int | None]:
        return [config.num_threads for config in load_settings(flags).engine_configs()]

    assert threads("--models", "a") == [None]
    assert threads("--models", "a", "--models", "b") == [2, 2]
    assert threads("--models", "a", "--models", "b", "--threads", "4") == [4, 4]
    assert threads("--models", "a", "--tensor-parallel", "2") == [2], "of each rank"


@pytest.mark.parametrize(
    ("source", "name"),
    [("org/model", "model"), ("/a/b.gguf", "b"), ("dir/", "dir"), ("x=y", "x")],
)
def test_names(source: str, name: str) -> None:
    assert Settings(models=(source,)).named_sources()[0][0] == name


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "65536"], "port: "),
        (["--max-inputs", "0"], "max_inputs: "),
        (["--unary-deadline", "0"], "unary_deadline: "),
        (["--unary-deadline", "inf"], "unary_deadline: "),
        (["--host", "0.0.0.0"], "insecure"),
        (["--models", "a", "--models", "b=a,a"], "used twice"),
        (["--models", "=x"], "models: "),
        (["--models", "x="], "models: "),
        (["--models", "a", "--manifests", "b=x"], "manifests: "),
        (["--models", "a", "--manifests", "x"], "manifests: "),
        (["--tls-cert", "x"], "tls_cert and tls_key"),
        (["--tls-client-ca", "x"], "tls_client_ca"),
        (["--max-message-bytes", "2097151"], "max_message_bytes: "),
        (["--tensor-parallel", "0"], "tensor_parallel: "),
        (["--tensor-parallel", "2", "--internals"], "internals: .* tensor_parallel"),
        (["--rank-timeout", "1"], "rank_timeout: "),
    ],
)
def test_mistakes_are_named(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(flags)


def test_an_open_address_needs_consent() -> None:
    assert load_settings(["--host", "0.0.0.0", "--insecure"]).host == "0.0.0.0"
    load_settings(["--host", "0.0.0.0", "--tls-cert", "c", "--tls-key", "k"])


@pytest.mark.parametrize(
    ("text", "message"),
    [("ports: 1", "ports: "), ("- 1", "not a mapping"), ("a: [", "cannot be read")],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "headstream.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_settings(config_file=path)


def test_an_empty_file_is_fine_and_a_missing_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "headstream.yaml"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(config_file=path)
    path.write_text("")
    load_settings(config_file=path)


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.2", True), ("::1", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_every_setting_is_explained() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_explorer_keeps_to_this_machine_unless_told() -> None:
    assert not load_settings().explorer
    assert load_settings(["--explorer"]).explorer
    tls = ["--tls-cert", "c.pem", "--tls-key", "k.pem"]  # of the gRPC port; the page has none
    with pytest.raises(ConfigError, match=r"explorer: .*192\.0\.2\.1"):
        load_settings(["--explorer", "--host", "192.0.2.1", *tls])
    assert load_settings(["--host", "192.0.2.1", *tls]).host == "192.0.2.1"
    assert load_settings(["--explorer", "--host", "192.0.2.1", "--insecure"]).explorer


def test_the_explorer_has_no_token() -> None:
    with pytest.raises(ConfigError, match="explorer: the page has no token"):
        load_settings(["--explorer", "--tokens", "tokens.toml"])


@pytest.mark.parametrize(
    "wrong", ["localhost:4317", "ftp://a:1", "http://", "http://a:1/v1/traces"]
)
def test_the_endpoint_of_traces_is_a_url_without_a_path(wrong: str) -> None:
    assert load_settings().otlp_endpoint is None
    for good in ("http://[::1]:4317", "https://collector.local"):
        assert load_settings(["--otlp-endpoint", good]).otlp_endpoint == good
    with pytest.raises(ConfigError, match=r"otlp_endpoint: .*http://HOST:PORT"):
        load_settings(["--otlp-endpoint", wrong])
