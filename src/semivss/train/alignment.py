"""Teachers' distributions of a step in, the same moved to the classes' shares in the labelled frames out (ReMixMatch, arXiv 1911.09785).

The online counterpart of `infer/alignment.py`: the mean prediction is a running one, since the teacher changes.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor

from semivss.posterior import align, class_factors

MEMORY = 0.99  # of the mean prediction, a step


class RunningAlignment:
    """The running mean prediction, the same on all processes. Part of the checkpoint."""

    def __init__(self, wanted: Float[Tensor, "C"], strength: float) -> None:
        """
        Args:
            wanted: shares of the classes in labelled frames, which sum to 1.
            strength: 1 = the mean prediction gets these shares, were there no normalisation in each pixel.
        """
        self._wanted, self._strength = wanted, strength
        self.mean = wanted.clone()  # so that nothing is moved at first

    def __call__(self, p: Float[Tensor, "N C H W"], inside: Bool[Tensor, "N H W"]) -> Float[Tensor, "N C H W"]:
        """The aligned distribution of a batch, which joins the mean first. Pixels that are not `inside` do not count; `p` is finite."""
        sums = torch.cat([(p * inside[:, None]).sum((0, 2, 3)), inside.sum()[None]])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        if sums[-1] > 0:
            self.mean = torch.lerp(sums[:-1] / sums[-1], self.mean, MEMORY)
        return align(p, class_factors(self.mean, self._wanted, self._strength))

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return {"mean": self.mean}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        self.mean = state["mean"].to(self.mean)
