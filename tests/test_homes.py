"""Where test brokers run is what was asked for, or a clear error: never another home, never a guess from the PATH."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from integration import container
from integration.container import ContainerNode, image
from integration.home import described, home
from integration.jvm import ProcessNode
from integration.node import ClusterError, NoSuchRelease

ROOT = Path(container.__file__).parent.parent


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("EOMIRROR_TEST_KAFKA", "EOMIRROR_TEST_KAFKA_IMAGE", "DOCKER_HOST"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("value", [None, "", "process"])
def test_processes_are_the_rule(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is not None:
        monkeypatch.setenv("EOMIRROR_TEST_KAFKA", value)
    assert home() is ProcessNode
    assert described() == "brokers are processes"


def test_containers_are_had_where_a_daemon_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(container, "ask_daemon", lambda: asked.append("daemon"))
    monkeypatch.setenv("EOMIRROR_TEST_KAFKA", "containers")
    assert home() is ContainerNode
    assert asked == ["daemon"]


def test_a_docker_command_without_a_daemon_is_not_enough(tmp_path: Path) -> None:
    command = tmp_path / "docker"
    command.write_text("#!/bin/sh\nexit 0\n")
    command.chmod(0o755)
    nobody = f"unix://{tmp_path}/nobody.sock"
    asked = {"EOMIRROR_TEST_KAFKA": "containers", "DOCKER_HOST": nobody, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "integration/test_exactly_once.py"],
        cwd=ROOT,
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (pytest.ExitCode.USAGE_ERROR, "")
    cause, hint = ended.stderr.strip().split("\nhint: ")
    assert cause.startswith("ERROR: the Docker daemon does not answer: ")
    said, way_out = hint.split("; ")
    assert said == f"See that it runs and answers on {nobody}"
    assert way_out == '"docker version" tells. Without one, say EOMIRROR_TEST_KAFKA=process.'


@pytest.mark.parametrize("value", ["container", "docker", "processes", "Process"])
def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("EOMIRROR_TEST_KAFKA", value)
    with pytest.raises(ClusterError) as told:
        home()
    assert str(told.value) == (
        f'EOMIRROR_TEST_KAFKA: no home for brokers is called "{value}"\nhint: Say "process" or "containers".'
    )


def test_the_stock_images_are_those_of_the_versions_that_processes_run() -> None:
    versions = [
        found
        for pom in ("pom.xml", "pom-3.9.xml")
        for found in re.findall(r"<kafka\.version>([0-9.]+)<", (ROOT / pom).read_text())
    ]
    assert [image(), image("3.9")] == [f"apache/kafka:{version}" for version in versions]


@pytest.mark.parametrize(
    ("chosen", "older"),
    [
        ("eomirror-kafka:4.3.1", "eomirror-kafka:3.9.2"),
        ("some/where/kafka:new", "some/where/kafka:3.9.2"),
        ("127.0.0.1:5000/kafka:new", "127.0.0.1:5000/kafka:3.9.2"),
    ],
)
def test_an_older_release_is_beside_the_image_that_was_chosen(
    monkeypatch: pytest.MonkeyPatch, chosen: str, older: str
) -> None:
    monkeypatch.setenv("EOMIRROR_TEST_KAFKA_IMAGE", chosen)
    assert [image(), image("3.9")] == [chosen, older]


@pytest.mark.parametrize("chosen", ["kafka", "127.0.0.1:5000/kafka", "sha256:0a1b", "kafka:new@sha256:0a1b"])
def test_an_image_without_a_tag_stands_for_the_newest_release_alone(
    monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    monkeypatch.setenv("EOMIRROR_TEST_KAFKA_IMAGE", chosen)
    assert image() == chosen
    with pytest.raises(NoSuchRelease, match=r"^Kafka 3\.9 is left out"):
        image("3.9")
