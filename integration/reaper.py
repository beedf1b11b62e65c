"""Removes the containers of a test run that has ended, however it ended: `python -m integration.reaper <label>`.

For containers what tether.py is for processes. The end of the test run is the end of this program's stdin: the other
end of that pipe is open nowhere else.
"""

from __future__ import annotations

import sys
import time

from docker.errors import APIError
from testcontainers.core.docker_client import DockerClient

# The daemon may still be making a container that the run had asked for.
ROUNDS = 3
PAUSE = 0.5


def main() -> None:
    """Waits for the end, then removes by SIGKILL whatever has the label."""
    client = DockerClient().client
    sys.stdin.buffer.read()
    refused: APIError | None = None
    for _ in range(ROUNDS):
        refused = None
        for container in client.containers.list(all=True, filters={"label": sys.argv[1]}, ignore_removed=True):
            try:
                container.remove(force=True, v=True)
            except APIError as error:
                # It is being removed already, or was never there: both are what is wanted.
                if error.status_code not in (404, 409):
                    refused = error
        time.sleep(PAUSE)
    if refused is not None:
        raise refused


if __name__ == "__main__":
    main()
