"""How the kernel is checked beyond its tests: sanitizers, fuzzing, line coverage, instruction counts."""
