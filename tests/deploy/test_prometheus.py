"""Alert rules: their own tests, and whether a server has what they ask for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from prometheus_queries import mistakes, scrape
from proxy_process import DEPLOY, find_program
from server_process import Server

FOLDER = DEPLOY / "prometheus"


def promtool(*arguments: str, folder: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    command = [find_program("promtool"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def rules(path: Path = FOLDER / "rules.yml") -> list[dict[str, Any]]:
    groups = yaml.safe_load(path.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_configuration_is_one() -> None:
    done = promtool("check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stderr


def test_alerts_fire_when_they_should() -> None:
    done = promtool("test", "rules", "rules_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_the_tests_of_the_alerts_see_a_rule_that_never_fires(
    rule: dict[str, Any], tmp_path: Path
) -> None:
    """Negative control, and every alert has a test."""
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    text = yaml.safe_load((tmp_path / "rules.yml").read_text())
    for group in text["groups"]:
        for each in group["rules"]:
            if each["alert"] == rule["alert"]:
                each["expr"] = f"({each['expr']}) and vector(0) > 1"
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(text))
    assert promtool("test", "rules", "rules_test.yml", folder=tmp_path).returncode != 0


def test_a_server_has_what_the_alerts_ask_for(used_server: Server) -> None:
    series = scrape(used_server.admin)
    wrong = {rule["alert"]: list(mistakes(rule["expr"], series)) for rule in rules()}
    assert not any(wrong.values()), wrong


def test_every_alert_says_how_bad_it_is() -> None:
    assert {rule["labels"]["severity"] for rule in rules()} == {"critical", "warning"}
