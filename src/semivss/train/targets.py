"""What the unlabelled part of a step is to teach: mixed crops with their pseudo labels, and where these are trusted."""

import functools

from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from semivss.posterior import split_labels
from semivss.tensors import Split


class Targets:
    """No dataclass: mixed precision would look into it and round the doubts to 8 bits."""

    def __init__(
        self,
        strong: UInt8[Tensor, "V N 3 H W"],
        labels: UInt8[Tensor, "N H W"],
        doubt: Float[Tensor, "N H W"],
        gamma: float | Shaped[Tensor, "C"],
        low: float | None,
    ) -> None:
        """
        Args:
            strong: V views of the crops.
            labels: before the split, 255 = erased or padding.
            doubt: entropies or their codes.
            gamma: a doubt from here on is unreliable; one number, or one a class.
            low: largest doubt of a pixel that may be an anchor; none = all reliable ones.
        """
        self.strong, self.labels, self.doubt, self.gamma, self.low = strong, labels, doubt, gamma, low

    def first(self, crops: int) -> "Targets":
        """Those of the first crops, under the whole batch's thresholds."""
        return Targets(self.strong[:, :crops], self.labels[:crops], self.doubt[:crops], self.gamma, self.low)

    @functools.cached_property
    def split(self) -> Split:
        """Reliable labels, and where they are not."""
        return split_labels(self.labels, self.doubt, self.gamma)
