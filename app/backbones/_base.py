"""What every backbone is: a frozen or trainable network from inputs to embeddings."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

Modality = Literal["image", "text", "vector"]


class Backbone(nn.Module, ABC):
    """A network that turns inputs into embeddings.

    `input_shape` is the shape of one example as the codec delivers it; `None` is an axis of any
    size. With `pads`, examples of different sizes are zero-padded at the end to the longest of a
    batch, and `forward` must not let the padding change an answer. Without it, examples of different
    sizes never share a batch. `dim` is the embedding's size; `None` means that of the input.

    Images arrive as uint8 (channels, height, width), 0..255: normalisation is the backbone's, so that
    a quarter of the bytes travel to the device. Texts arrive as int64 token ids, 0 is padding.
    """

    modality: ClassVar[Modality]
    input_shape: tuple[int | None, ...]
    dim: int | None
    pads: ClassVar[bool] = False
    stacks: ClassVar[bool] = False
    """Whether `forward` in evaluation mode takes the weights of several tasks, stacked along a new first axis.

    Inputs (n, tasks * channels, ...) then hold those of the first task first, and so does the output (n, tasks * dim).
    """

    longest: int | None = None
    """How far an example may reach along an axis of any size; more is a `ValueError`, whatever runs the network."""
    packs: ClassVar[bool] = False
    """Whether `packed` embeds inputs without computing their padding; they have one axis, and `pads` holds."""

    @abstractmethod
    def forward(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n dim"]:
        """Embed `n` inputs. Row `i` depends on input `i` alone in evaluation mode."""

    def packed(self, inputs: Int64[Tensor, "n tokens"], places: Int64[Tensor, " m"]) -> Float[Tensor, "n dim"]:
        """Embed as `forward` does in evaluation mode, computing no padding but where the rows' positions mix.

        `places` says where anything but 0 stands in the inputs, flattened, in this order; where nothing does, it is
        the first place alone. Only who `packs` is asked.
        """
        raise NotImplementedError

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over trained weights: these very tensors, without a copy. They are in the network's type.

        A network whose weights others named overrides this to translate.

        Raises: `RuntimeError` naming each key that is missing, unknown or of another shape.
        """
        self.load_state_dict(weights, assign=True)

    def micro_batch_examples(self, device_type: str) -> int:
        """How many examples one forward should hold on this kind of device ("cpu", "cuda")."""
        return 64 if device_type == "cpu" else 512
