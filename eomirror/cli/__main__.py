"""`python -m eomirror.cli`."""

from eomirror.cli import main

main()
