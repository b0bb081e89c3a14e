"""A run folder in, the numbers of its row out: mIoU with one view, scales, flip and the teacher, VC8, pixel counts of every clip, cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def measured(out: Path, folder: str, teacher: str, *, in_full: bool, validation: bool) -> dict[str, Any]:
    """Scores of the model `out`/`folder` on the test clips, and its cost.

    Args:
        out: a run folder.
        folder: of the model in it.
        teacher: folder of the other model, if the run has one.
        in_full: also with the recipe's views, and with the teacher.
        validation: also on the validation video.
    """
    import torch

    from semivss.data.source import open_source
    from semivss.hashes import split_hash
    from semivss.infer.views import View, views_from
    from semivss.models.segmenter import Segmenter
    from semivss.recipe import load_recipe
    from semivss.stage import versions

    torch.set_num_threads(1)  # as the runs have it
    recipe = load_recipe(out / "recipe.toml")
    models = [Segmenter.from_pretrained(out / folder / "model")]
    if in_full and (out / teacher).is_dir():
        models.append(Segmenter.from_pretrained(out / teacher / "model"))
    views = {"single": (View(base=recipe.predict.views.base),)} | ({"tta": views_from(recipe.predict.views)} if in_full else {})
    row: dict[str, Any] = {"recipe": recipe.digest(), "cpu_seconds": cpu_seconds(out / folder / "metrics.csv"), "versions": versions()}
    row["split_hash"] = split_hash(open_source(recipe.data.test[0], "strict"))
    for kind, chosen in views.items():
        test = evaluated(models, open_source(recipe.data.test[0], "strict").clips, chosen)
        row |= {f"{role}{kind}": tally.miou() for role, tally in test.items()}
        if kind == "single":
            row["clips"] = test[""].pixels()
        if validation and recipe.data.val is not None:
            tally = evaluated(models[:1], open_source(recipe.data.val, "strict").clips, chosen)[""]
            row |= {f"val_{kind}": tally.miou(), f"val_{kind}_vc8": tally.vc8()}
    return row


def cpu_seconds(journal: Path) -> float:
    """CPU time of the last training, of all its starts: the supervised models and labelling before it, which modes share, are left out."""
    header, *_, last = journal.read_text().splitlines()
    return round(float(last.split(",")[header.split(",").index("cpu_seconds")]), 1)


def evaluated(models: Sequence[Any], clips: Any, views: Any) -> dict[str, "Tally"]:
    """Scores of the first model, and of the second (the teacher) and of both together: each looks at every frame once."""
    from semivss.infer.stream import stream_distribution

    tallies = {role: Tally(len(models[0].label_set)) for role in ("", "teacher_", "ensemble_")[: 1 if len(models) == 1 else 3]}
    for clip in clips:
        for tally in tallies.values():
            tally.begin(clip.name)
        streams = [stream_distribution([model], None, (frame for _, frame in clip.stream()), views) for model in models]
        for index, answers in enumerate(zip(*streams, strict=True)):
            if clip.is_labelled(index):
                truth = clip.labels(index)
                for tally, p in zip(tallies.values(), (*answers, sum(answers)), strict=False):  # the sum has the arg max of the mean
                    tally.update(truth, p.argmax(0).byte().numpy())
    return tallies


class Tally:
    """Counts of every clip, and the windows of VC8."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._clips: dict[str, tuple[Any, Any]] = {}

    def begin(self, clip: str) -> None:
        """A new clip."""
        from semivss.metrics.confusion import Confusion
        from semivss.metrics.consistency import VideoConsistency

        self._now = self._clips[clip] = Confusion(self._classes), VideoConsistency((8,))

    def update(self, truth: np.ndarray, labels: np.ndarray) -> None:
        """The clip's next labelled frame."""
        for part in self._now:
            part.update(truth, labels)

    def miou(self) -> float:
        """In percent, over the pixels of all clips."""
        first, *others = (confusion for confusion, _ in self._clips.values())
        return round(100 * (sum(others, first).scores().miou or 0.0), 2)

    def vc8(self) -> float | None:
        """In percent; none for clips of at most 8 frames."""
        from semivss.metrics.consistency import window_mean

        mean = window_mean([value for _, consistency in self._clips.values() for value in consistency.windows[8].ratios()])
        return None if mean is None else round(100 * mean, 2)

    def pixels(self) -> dict[str, list[list[int]]]:
        """Of every clip the correct, true and predicted pixels of each class: what mIoU over any choice of clips needs."""
        scores = {name: confusion.scores() for name, (confusion, _) in self._clips.items()}
        return {name: [list(s.correct_pixels), list(s.truth_pixels), list(s.predicted_pixels)] for name, s in scores.items()}
