"""`imprint bench`: what this machine does with the operator's settings, and which part of the server binds it."""

from app.bench.run import Options, run

__all__ = ["Options", "run"]
