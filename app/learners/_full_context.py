"""Full context embeddings: each example is seen in the light of the whole support set."""

from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear


@final
class FullContext(nn.Module):
    """Two recurrent networks that change embeddings of length sqrt(dim), so that a coordinate is about one.

    All weights start at zero: then nothing is changed, and the learner is what it is without context.
    Paper: Vinyals et al., NeurIPS 2016, arXiv:1606.04080, section 2.1.2 and appendix A.1-A.2.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.over_support = nn.LSTM(dim, dim, bidirectional=True)
        self.over_query = nn.LSTMCell(2 * dim, dim)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def support(self, rows: Float[Tensor, "s dim"]) -> Float[Tensor, "s dim"]:
        """g(x_i, S) = g'(x_i) + forward_i + backward_i of an LSTM that reads the support set both ways.

        It reads in the order of the first coordinate, ties by the second and so on: the order in which examples or
        labels came is no matter. Examples embedded alike get the mean of what they are given.
        """
        unique: Callable[..., tuple[Tensor, Tensor]] = torch.unique
        alike, place = unique(rows.detach(), dim=0, return_inverse=True)
        order = place.argsort(stable=True)
        seen, _ = self.over_support(rows[order])
        change = seen.unflatten(1, (2, -1)).sum(dim=1)
        sums = change.new_zeros(alike.shape).index_add(0, place[order], change)
        means: Tensor = sums / place.bincount()[:, None]
        return rows + means[place]

    def query(
        self, rows: Float[Tensor, "*t q dim"], support: Float[Tensor, "*t s dim"], heat: Float[Tensor, ""], steps: int
    ) -> Float[Tensor, "*t q dim"]:
        """f(x, S): an LSTM that at each of `steps` reads the support examples its state attends to.

        h_k = LSTM(f'(x), [h_k-1, r_k-1]) + f'(x), where r is the mean of the support set, weighed by the softmax of
        `heat` times its inner products with h over dim. A row depends on its own query alone.
        """
        lstm, dim = self.over_query, rows.shape[-1]
        of_query, of_read = lstm.weight_ih[:, :dim], lstm.weight_ih[:, dim:]
        # What a query itself adds to the gates is the same at each step.
        own = linear(rows, of_query, lstm.bias_ih + lstm.bias_hh)
        hidden, cell = torch.zeros_like(rows), torch.zeros_like(rows)
        for _ in range(steps):
            read = (heat / dim * (hidden @ support.mT)).softmax(dim=-1) @ support
            gates = own + linear(read, of_read) + linear(hidden, lstm.weight_hh)
            enter, keep, candidate, leave = gates.chunk(4, dim=-1)
            cell = keep.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
            hidden = leave.sigmoid() * cell.tanh() + rows
        return hidden
