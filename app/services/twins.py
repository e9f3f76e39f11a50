"""Learners that adapt weights, one of each a thread."""

import threading
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

M = TypeVar("M", bound=nn.Module)


class _OfThread(threading.local):
    """A thread's own twins; they go with it, and with the module that they were made of."""

    def __init__(self) -> None:
        self.twins: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


_own: Final = _OfThread()


def twin(module: M) -> M:
    """This thread's twin of a module: the same weights, not copied, in a tree of modules of its own.

    A learner that adapts weights hangs them into its backbone while that runs. The modules that embed for everybody
    must never hold them, and those of a device thread that hung and was replaced may hold them for ever.
    """
    found = _own.twins.get(module)
    if not isinstance(found, type(module)):
        found = _own.twins[module] = _twin(module)
    return found


def _twin(module: M) -> M:
    made = module.__new__(type(module))
    made.__dict__ = dict(module.__dict__)
    made.__dict__["_parameters"] = dict(module._parameters)
    made.__dict__["_buffers"] = dict(module._buffers)
    made.__dict__["_modules"] = {name: child and _twin(child) for name, child in module._modules.items()}
    return made
