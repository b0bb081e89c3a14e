"""What each class contributed to the contrastive loss, step by step, in; warnings about classes that it passes by out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MEANINGS = {  # in the order in which a class gets nearer to a part
    "no positive": "no reliable pixel of them in any batch",
    "no anchor": "no pixel of them whose class the teacher gives the probability that an anchor needs",
    "empty queue": "no pixel was a negative of them",
    "only class": "they were alone in their batches",
}


class ContrastWatch:
    """Counts the batches in which each class took no part, and says so once they reach `patience`."""

    def __init__(self, names: Sequence[str], patience: int = 500) -> None:
        """
        Args:
            names: of the classes.
            patience: batches in a row without a share in the loss until a class is named; again after each time it took part.
        """
        self._names, self._patience = tuple(names), patience
        self._reasons: list[Counter[str]] = [Counter() for _ in names]  # since the class last took part

    def update(self, reasons: Sequence[str]) -> list[str]:
        """Lines to warn with, one a reason; most often none.

        Args:
            reasons: `ContrastResult.reasons()` of a batch: empty for a class that took part.
        """
        late: dict[str, list[int]] = {}
        for number, (reason, idle) in enumerate(zip(reasons, self._reasons, strict=True)):
            if not reason:
                idle.clear()
                continue
            idle[reason] += 1
            if idle.total() == self._patience:
                late.setdefault(idle.most_common(1)[0][0], []).append(number)
        return [self._line(reason, numbers) for reason, numbers in late.items()]

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs: plain numbers."""
        return {"reasons": [dict(idle) for idle in self._reasons]}

    def load_state_dict(self, state: Mapping[str, Iterable[Mapping[str, int]]]) -> None:
        """Take over what `state_dict` returned."""
        self._reasons = [Counter(idle) for idle in state["reasons"]]

    def _line(self, reason: str, numbers: list[int]) -> str:
        shown = ", ".join(f"{self._names[number]} ({number})" for number in numbers)
        return f"contrastive loss: nothing for {self._patience} batches from {shown}: {reason}, mostly ({MEANINGS[reason]})"
