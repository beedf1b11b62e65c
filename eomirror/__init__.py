"""eomirror copies Apache Kafka topics between clusters, every committed record exactly once."""

__version__ = "0.1.0"
