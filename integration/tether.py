"""Runs a command that dies with whoever started it: `python -I -S tether.py <parent pid> <command> ...`.

The kernel sends SIGKILL when the *thread* that started this process ends, so that even a SIGKILLed test run leaves no
broker behind. Start tethered processes from a thread that lives as long as they shall live (the main thread).
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"tether: prctl: {os.strerror(ctypes.get_errno())}")
    # The parent may have died before the call above; then nobody will ever send the signal.
    if os.getppid() != parent:
        sys.exit("tether: the parent is gone")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
