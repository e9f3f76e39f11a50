"""The demo: what a new user sees first, over real HTTP, on real examples."""

from app.demo.show import run

__all__ = ["run"]
