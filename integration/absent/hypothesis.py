"""Stands in the way of Hypothesis for the processes under test: who runs eomirror does not have it installed, and kio
imports it, at a third of a second, wherever it finds it."""

raise ImportError("absent, as where eomirror is installed")
