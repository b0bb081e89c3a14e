"""New keys of every class in, a bounded first-in first-out memory of keys on all processes out: the negatives of the contrastive loss.

One ring buffer holds the queues of all classes (arXiv 2203.03884 keeps one list a class).
Letters: C classes, K rows a class, D channels, N new keys, V classes asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from semivss.errors import WeightsError
from semivss.losses.contrast_sets import ByClass
from semivss.losses.matcher import NonFiniteCost


class MemoryBank:
    """The newest keys of each class, the same on all processes. Part of the checkpoint, not of the model."""

    def __init__(
        self,
        classes: int,
        channels: int,
        size: int | Sequence[int] = 4096,
        *,
        most: int | None = 256,
        unit: bool = True,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            classes: C.
            channels: D.
            size: rows a class, or of each class. Memory is C * max(size) * D numbers from the start.
            most: new keys a class, step and process that are taken, a random part; none = all.
            unit: keep rows of length 1 (the loss uses their direction alone); false = as they are.
            dtype: of the rows.
            device: of the rows.
        """
        sizes = [size] * classes if isinstance(size, int) else list(size)
        if len(sizes) != classes or min(sizes) < 1:
            raise ValueError(f"needs {classes} sizes of at least 1, got {sizes}")
        self.sizes = torch.tensor(sizes, device=device)
        self.rows = torch.zeros(classes, max(sizes), channels, dtype=dtype, device=device)
        self.lengths = torch.zeros(classes, dtype=torch.int64, device=device)
        self.ends = torch.zeros(classes, dtype=torch.int64, device=device)  # where the next key of a class goes
        self.most, self.unit = most, unit

    def choose(self, keys: ByClass, generator: torch.Generator | None = None) -> ByClass:
        """At most `most` of the pixels of each class, at random."""
        return keys if self.most is None else keys.subset(self.most, generator)

    @torch.no_grad()
    def add(self, keys: Float[Tensor, "N D"], counts: Int64[Tensor, "C"]) -> Int64[Tensor, "C"]:
        """Append the keys of all processes, those of the first process first; the oldest rows make room. All processes must call it.

        Args:
            keys: class after class; no more than `most` a class.
            counts: keys of each class.

        Returns:
            Keys of each class over all processes.

        Raises:
            NonFiniteCost: on every process, when a key of any of them is NaN or infinite; the bank is unchanged.
        """
        keys = F.normalize(keys.float(), dim=1, eps=1e-8) if self.unit else keys.float()
        keys, counts_of = self._gather(keys, counts)
        if not keys.sum().isfinite():
            raise NonFiniteCost("the teacher's representations are NaN or infinite")
        classes = torch.arange(len(counts), device=counts.device).repeat(len(counts_of)).repeat_interleave(counts_of.flatten())
        total = counts_of.sum(0)
        self._append(keys, classes, total)
        return total

    def take(self, classes: Int64[Tensor, "V"], index: Int64[Tensor, "V n"]) -> Float[Tensor, "V n D"]:
        """Rows number `index` of the queues of `classes`; 0 is the oldest."""
        sizes = self.sizes[classes][:, None]
        oldest = (self.ends - self.lengths)[classes][:, None]
        flat = (oldest + index) % sizes + classes[:, None] * self.rows.shape[1]
        return F.embedding(flat, self.rows.flatten(0, 1)).float()

    def queues(self) -> list[Float[Tensor, "n D"]]:
        """The rows of each class, oldest first."""
        ids = torch.arange(len(self.sizes), device=self.sizes.device)
        return [self.take(ids[c : c + 1], torch.arange(int(n), device=ids.device)[None])[0] for c, n in enumerate(self.lengths)]

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs; without the rows that were never written."""
        used = int(self.lengths.max())
        rows = self.rows[:, :used].contiguous() if used < self.rows.shape[1] else self.rows
        return {"rows": rows, "lengths": self.lengths, "ends": self.ends, "sizes": self.sizes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned. Raises WeightsError when it is of another shape; nothing is changed then."""
        rows = state["rows"]
        if not torch.equal(state["sizes"].cpu(), self.sizes.cpu()) or (rows.shape[0], rows.shape[2]) != (
            len(self.sizes),
            self.rows.shape[2],
        ):
            ours, theirs = (
                _shape(sizes, channels) for sizes, channels in ((self.sizes, self.rows.shape[2]), (state["sizes"], rows.shape[2]))
            )
            raise WeightsError(f"memory bank: the checkpoint holds {theirs}, the recipe asks for {ours}; take the recipe it was made with")
        self.rows[:, : rows.shape[1]].copy_(rows)
        self.lengths.copy_(state["lengths"])
        self.ends.copy_(state["ends"])

    def _append(self, keys: Tensor, classes: Tensor, counts: Tensor) -> None:
        """Write keys in queue order; of a class with more keys than rows only the newest."""
        order = classes.sort(stable=True).indices
        classes = classes[order]
        place = torch.arange(len(keys), device=keys.device) - (counts.cumsum(0) - counts)[classes]
        sizes = self.sizes[classes]
        kept = (place >= counts[classes] - sizes).nonzero()[:, 0]
        slots = (classes * self.rows.shape[1] + (self.ends[classes] + place) % sizes)[kept]
        self.rows.flatten(0, 1).index_copy_(0, slots, keys[order[kept]].to(self.rows.dtype))
        self.ends = (self.ends + counts) % self.sizes
        self.lengths = torch.minimum(self.lengths + counts, self.sizes)

    def _gather(self, keys: Tensor, counts: Tensor) -> tuple[Tensor, Int64[Tensor, "P C"]]:
        """Keys and counts of all P processes in their order, by one exchange of equally long messages."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return keys, counts[None]
        limit = self._message_keys(keys)
        message = keys.new_zeros(len(counts) + limit * keys.shape[1])
        message[: len(counts)] = counts  # exact in float32 below 2^24
        message[len(counts) :][: keys.numel()] = keys.flatten()
        everyone = message.new_empty(dist.get_world_size() * len(message))
        gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # torch renamed it
        gather(everyone, message)
        parts = everyone.view(-1, len(message))
        counts_of = parts[:, : len(counts)].long()
        rows = [part[len(counts) :].view(limit, -1)[:used] for part, used in zip(parts, counts_of.sum(1).tolist(), strict=True)]
        return torch.cat(rows), counts_of

    def _message_keys(self, keys: Tensor) -> int:
        """Room for keys that every process sends: the cap, or what the fullest of them needs."""
        if self.most is not None:
            return self.most * len(self.sizes)
        largest = torch.tensor(len(keys), device=keys.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)


def _shape(sizes: Tensor, channels: int) -> str:
    return f"{len(sizes)} classes of up to {int(sizes.max())} rows and {channels} channels"
