"""Networks made to be filled at once: nothing is drawn for weights that a file overwrites."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

from torch import Tensor
from torch.overrides import TorchFunctionMode

_DRAWS: Final = (Tensor.normal_, Tensor.uniform_)


@final
class Undrawn(TorchFunctionMode):
    """While it is entered, in this thread, what `torch.nn.init` would fill is left as the memory was.

    To draw the weights of MiniLM takes longer than to map those of its file.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Every call goes through, save those that fill a tensor for a start of training."""
        if getattr(func, "__module__", None) == "torch.nn.init" or func in _DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
