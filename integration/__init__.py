"""Promises kept on real brokers by real processes: the harness, workload, independent check, demo and tests."""
