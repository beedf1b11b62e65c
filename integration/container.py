"""A node as a container on this machine's own network, through testcontainers.

Any image will do that has `sh` and `java` on its PATH and Kafka's jars in /opt/kafka/libs, as the stock image has. Its
entry point is not used: the broker gets the `server.properties` that a process would get, at the same ports and in the
same folder, and runs as the same user, so that tests may read and rewrite its files. The daemon must be this machine's.

    EOMIRROR_TEST_KAFKA_IMAGE   the image of the newest release; by default the stock one, apache/kafka:<version>

Other releases come from the same repository by their version: apache/kafka:3.9.2 beside apache/kafka:4.3.1. An image
that is not there is pulled. `integration/image.sh` makes both with no registry of images.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import math
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient

from .home import VARIABLE as HOME
from .node import LIVE, NEWEST, ROOT, ClusterError, Node, NoSuchRelease, tool_command

VARIABLE = "EOMIRROR_TEST_KAFKA_IMAGE"
STOCK = "apache/kafka"
POMS = {NEWEST: "pom.xml", "3.9": "pom-3.9.xml"}
JARS = "/opt/kafka/libs"
NEEDED = f"An image must have sh and java on its PATH and Kafka's jars in {JARS}."

# Every container that shall not outlive this process has this label; reaper.py removes what is left of them.
LABEL = f"eomirror.test={uuid.uuid4().hex}"

# Testcontainers' own reaper is a container itself: one more image, and a port that it must be given.
testcontainers_config.ryuk_disabled = True


@functools.cache
def ask_daemon() -> str:
    """The version of the Docker daemon, by its own answer. Raises ClusterError if there is none."""
    with _told(), contextlib.closing(DockerClient().client) as client:
        client.ping()
        return str(client.version()["Version"])


def version(release: str) -> str:
    """The exact version of a release, as `make kafka` fetches it."""
    found = re.search(r"<kafka\.version>(.+)</kafka\.version>", (ROOT / POMS[release]).read_text())
    assert found
    return found[1]


def image(release: str = NEWEST) -> str:
    """The image that stands for a release. Raises NoSuchRelease if none is known for one that is not the newest."""
    chosen = os.environ.get(VARIABLE)
    if not chosen:
        return f"{STOCK}:{version(release)}"
    if release == NEWEST:
        return chosen
    # A tag stands after the last colon of the last part, for a port has a colon too; a digest names one image alone.
    tagged = re.fullmatch(r"((?:[^@]+/)?[^@/:]+):[^/:@]+", chosen)
    if not tagged or tagged[1] == "sha256":
        raise NoSuchRelease(f"Kafka {release} is left out: {VARIABLE}={chosen} has no tag that could name it")
    return f"{tagged[1]}:{version(release)}"


@functools.cache
def image_id(release: str = NEWEST) -> str:
    """The id of the image of a release, which is pulled if it is not there. Raises ClusterError, NoSuchRelease."""
    name = image(release)
    with _told(), contextlib.closing(DockerClient().client) as client:
        try:
            return str(client.images.get(name).id)
        except ImageNotFound:
            try:
                return str(client.images.pull(name).id)
            except DockerException as error:
                cause = f"image {name} is not there and cannot be pulled: {error}"
    if release != NEWEST:
        raise NoSuchRelease(f"Kafka {release} is left out: {cause}")
    raise ClusterError(f"{cause}\nhint: Make it with integration/image.sh, or name another one in {VARIABLE}.")


def described() -> str:
    """Where brokers run, in words. Raises ClusterError."""
    return f"brokers are containers of {image()} ({image_id()}), Docker {ask_daemon()}"


class ContainerNode(Node):
    """A broker as a container; each start makes a new one, and its end removes it."""

    def __init__(self, *place: Any, **options: Any) -> None:
        super().__init__(*place, **options)
        self._image = image_id(self._release)
        self._container: DockerContainer | None = None
        self._paused = False

    @classmethod
    def run_tool(cls, release: str, main_class: str, *arguments: str, folder: Path, timeout: float = 60.0) -> str:
        """As `Node.run_tool` says."""
        command = tool_command("java", JARS, main_class, *arguments)
        with _told():
            container = _started(image_id(release), shlex.join(command), folder)
            try:
                code = container.get_wrapped_container().wait(timeout=timeout)["StatusCode"]
                output, errors = (part.decode(errors="replace") for part in container.get_logs())
            finally:
                container.stop()
        if code != 0:
            raise ClusterError(f"{main_class} exited {code}\n{output}{errors}\nhint: {NEEDED}")
        return output

    def spawn(self) -> None:
        """Starts the JVM; it must be down."""
        command = f"{shlex.join(self._command('java', JARS))} >>{shlex.quote(str(self.log_file))} 2>&1"
        files = self._files()
        with _told():
            self._container = _started(self._image, command, self.folder, files, tether=self._tether)
        if self._tether:
            LIVE.add(self)

    def stop(self, timeout: float = 30.0) -> None:
        """SIGTERM and wait; SIGKILL if the broker takes longer than that many seconds. Does nothing if it is down."""
        if self._container is None:
            return
        self.resume()
        with _told():
            self._container.get_wrapped_container().stop(timeout=math.ceil(timeout))
        self._remove()

    def kill(self) -> None:
        """SIGKILL. Does nothing if the broker is down."""
        self._remove()

    def pause(self) -> None:
        """Freezes the container."""
        if self._container is not None:
            with _told():
                self._container.get_wrapped_container().pause()
            self._paused = True

    def resume(self) -> None:
        """Thaws it after `pause`."""
        if self._paused and self._container is not None:
            with _told():
                self._container.get_wrapped_container().unpause()
        self._paused = False

    @property
    def pid(self) -> int:
        """The broker's process id on this machine. Raises ClusterError if it is down."""
        state = self._state()
        if not state.get("Running"):
            raise ClusterError(f"{self.name}: the broker is down")
        return int(state["Pid"])

    @property
    def running(self) -> bool:
        """True while the JVM lives, paused or not."""
        return bool(self._state().get("Running"))

    def _state(self) -> dict[str, Any]:
        """What the daemon says of the container; empty if there is none."""
        if self._container is None:
            return {}
        wrapped = self._container.get_wrapped_container()
        with _told():
            try:
                wrapped.reload()
            except NotFound:
                return {}
        return dict(wrapped.attrs["State"])

    def _files(self) -> list[Path]:
        """Files of this machine that server.properties names."""
        lines = (line.partition("=") for line in self.properties.read_text().splitlines())
        return [Path(value) for key, _, value in lines if key.endswith(".location")]

    def _ended(self) -> object:
        code = self._state().get("ExitCode")
        self._remove()
        return code

    def _remove(self) -> None:
        """Removes the container, by SIGKILL if it runs."""
        if self._container is not None:
            with _told(), contextlib.suppress(NotFound):
                self._container.stop()
        self._container = None
        self._paused = False
        LIVE.discard(self)


def _started(image: str, command: str, folder: Path, files: Iterable[Path] = (), *, tether: bool = True) -> Any:
    """A running container with one command, as this user, in a folder of this machine; it may read those files too."""
    if tether:
        _watch()
    label, _, run = LABEL.partition("=")
    made = DockerContainer(image).with_kwargs(
        entrypoint=["sh", "-c", f"exec {command}"],
        network_mode="host",
        user=f"{os.getuid()}:{os.getgid()}",
        working_dir=str(folder),
        labels={label: run} if tether else {},
    )
    made.with_volume_mapping(folder, str(folder), "rw")
    for file in files:
        made.with_volume_mapping(file, str(file))
    try:
        return made.start()
    except BaseException as error:
        with contextlib.suppress(DockerException):
            made.stop()  # it may have been made, and not started
        if isinstance(error, APIError):
            raise ClusterError(f"no container of {image}: {error.explanation or error}\nhint: {NEEDED}") from error
        raise


@functools.cache
def _watch() -> None:
    """Starts the reaper, in a session of its own. It sees the end of this process as the end of its stdin."""
    command = [sys.executable, "-m", "integration.reaper", LABEL]
    reaper = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    atexit.register(reaper.communicate)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the daemon or the way to it has against a request, as ClusterError."""
    try:
        yield
    except (DockerException, requests.RequestException) as error:
        if isinstance(error, APIError):
            raise ClusterError(f"the Docker daemon refuses: {error.explanation or error}") from error
        where = os.environ.get("DOCKER_HOST", "its usual socket")
        hint = f'See that it runs and answers on {where}; "docker version" tells. Without one, say {HOME}=process.'
        raise ClusterError(f"the Docker daemon does not answer: {error}\nhint: {hint}") from error
