"""eomirror with one transactional id per lane in place of its pair, for comparison; the code is otherwise the same.

    python -m bench.one_identity run bench

Each transaction then waits for the markers of the one before: the broker has its first produce try again after 20 ms.
So the benchmark also gives it `commit.interval: 20ms`, a floor below which it could not commit anyway.
"""

from __future__ import annotations

import sys

from eomirror import identity

identity.IDENTITIES = ("a",)  # type: ignore[misc]

from eomirror.cli import main  # noqa: E402 - what it imports takes the name from above

if __name__ == "__main__":
    sys.exit(main())
