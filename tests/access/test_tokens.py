"""The file of tokens, and the command that makes its entries."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headstream.access.files import FileError
from headstream.access.tokens import SCOPES, Quota, digest, find, new_token, read_tokens
from headstream.server.cli.app import app

A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def entry(extra: str = "", sha256: str = f'"{A}"', scopes: str = '["logits"]') -> str:
    return f"[tokens.alice]\nsha256 = {sha256}\nscopes = {scopes}\n{extra}\n"


def test_a_whole_file(tmp_path: Path) -> None:
    quotas = "requests_per_second = 2.5\nrequests_at_once = 3\ntokens_per_second = 1000"
    both = f'["{A}", "{B}"]'
    text = entry(quotas, both) + f'[tokens.bob]\nsha256 = "{digest("c").hex()}"\nscopes = "lookup"'
    alice, bob = read_tokens(write(tmp_path / "tokens.toml", text))
    assert (alice.name, alice.scopes, alice.quota) == (
        "alice",
        frozenset({"logits"}),
        Quota(2.5, 3, 1000),
    )
    assert (bob.name, bob.scopes, bob.quota) == ("bob", frozenset({"lookup"}), Quota())
    tokens = (alice, bob)
    assert [find(tokens, each) for each in "abcd"] == [alice, alice, bob, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold tables"),
        ("x = 1\n" + entry(), "must hold tables"),
        ("[tokens]", "must hold tables"),
        ("[tokens", "Expected"),
        (f"x = {'[' * 10_000}", "tokens: "),
        (f"x = {'1' * 10_000}", "digits"),
        ("[tokens]\nalice = 1", "alice: must be a table"),
        ('[tokens."a b"]', "'a b' is no name"),
        (entry("requests = 1"), "alice: unknown keys: requests"),
        (entry(sha256='"abc"'), "alice.sha256: must be 64 hex digits"),
        (entry(sha256="[]"), "alice.sha256: must be a string or"),
        (entry(sha256=f'["{A}", "{A}"]'), "a sha256 is there twice"),
        (entry(scopes="[]"), "alice.scopes: must be a string or"),
        (entry(scopes='["admin"]'), "alice.scopes: admin: not among logits"),
        (entry("requests_per_second = 0"), "requests_per_second: must be a number above 0"),
        (entry("requests_per_second = inf"), "requests_per_second: must be a number above 0"),
        (entry("tokens_per_second = true"), "tokens_per_second: must be a number above 0"),
        (entry("requests_at_once = 1.5"), "requests_at_once: must be a whole number above 0"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "tokens.toml", text)
    with pytest.raises(FileError) as caught:
        read_tokens(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no\.toml: No such file"):
        read_tokens(tmp_path / "no.toml")


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert {len(token) for token in tokens} == {46}, "256 bits and a prefix of three letters"


def test_the_command_makes_an_entry_that_the_file_takes(tmp_path: Path) -> None:
    flags = ["--scope", "model", "--scope", "logits", "--requests-per-second", "2"]
    done = CliRunner().invoke(app, ["token", "new", "--name", "alice", *flags])
    assert done.exit_code == 0
    made = done.stderr.split()[-1]
    assert made not in done.stdout
    [alice] = read_tokens(write(tmp_path / "tokens.toml", done.stdout))
    assert (alice.scopes, alice.quota) == (
        frozenset({"logits", "model"}),
        Quota(requests_per_second=2),
    )
    # An oracle of its own: what sha256sum says of the token.
    told = subprocess.run(["sha256sum"], input=made.encode(), capture_output=True, check=True)
    assert alice.digests[0].hex() == told.stdout.decode().split()[0]


def test_the_command_gives_all_scopes_and_no_quota_unless_told(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["token", "new", "--name", "bob"])
    [bob] = read_tokens(write(tmp_path / "tokens.toml", done.stdout))
    assert (bob.scopes, bob.quota) == (frozenset(SCOPES), Quota())


@pytest.mark.parametrize(
    "flags", [["--name", "a b"], ["--name", "a", "--scope", "x"], ["--name", "a"]]
)
def test_the_command_names_what_is_wrong(flags: list[str]) -> None:
    good = flags == ["--name", "a"]
    done = CliRunner().invoke(app, ["token", "new", *flags])
    assert (done.exit_code == 0) is good
    assert ("error: " in done.stderr) is not good
