"""The picture on the README, from the run of `make demo`: pseudo labels of unlabelled frames, and test frames before and after retraining.

    python docs/demo_picture.py runs/demo docs/images/demo.png

Nobody chooses the frames: the middle ones of the first and the last clip of either set. Masks of the unlabelled clips are shown beside
their pseudo labels; training never opened them.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from semivss.data.clips import Clip, VideoDataset
from semivss.data.codes import relative_entropy, reliable
from semivss.data.images import read_mask
from semivss.data.palette import colorize
from semivss.data.pseudo import open_pseudo
from semivss.data.source import open_source
from semivss.layout import final_models, plain_name, pseudo_folders, supervised
from semivss.recipe import Recipe, load_recipe
from semivss.report.pseudo_pictures import faded

Line = list[tuple[str, np.ndarray]]  # titles and pictures


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    recipe = load_recipe(options.run / "recipe.toml")
    if not pseudo_folders(recipe, 1):
        parser.error(f"{options.run}: no run with stored pseudo labels; give that of make demo")
    draw([*pseudo_lines(recipe, options.run), *test_lines(recipe, options.run)], options.out)


def pseudo_lines(recipe: Recipe, run: Path) -> Iterator[Line]:
    """Unlabelled frames, their pseudo labels, entropies and masks."""
    assert recipe.semi is not None
    folder, threshold = open_pseudo(run / pseudo_folders(recipe, 1)[0]), recipe.semi.threshold
    thresholds = folder.thresholds(threshold.alpha, threshold.per_class)
    for clip, index in middles(open_source(recipe.data.unlabelled[0], "strict")):
        labels, codes = (read(clip.name, clip.stems[index]) for read in (folder.labels, folder.codes))
        yield [
            ("unlabelled frame", clip.frame(index)),
            (
                "pseudo label (dark: unreliable)",
                faded(colorize(labels, folder.label_set.colors), reliable(labels, codes, thresholds)),
            ),
            ("entropy (bright: unsure)", relative_entropy(codes)),
            ("its mask, which no training opens", colorize(clip.labels(index), folder.label_set.colors)),
        ]


def test_lines(recipe: Recipe, run: Path) -> Iterator[Line]:
    """Test frames, predictions of the student before retraining and of what predicts in the end, masks."""
    student = supervised(recipe)["student"]
    final = " +\n".join(plain_name(recipe, folder) for folder in final_models(recipe))
    dataset = open_source(recipe.data.test[0], "strict")
    for clip, index in middles(dataset):
        file = Path(clip.name) / f"{clip.stems[index]}.png"
        before, after = (read_mask(run / folder / "test" / file) for folder in (f"compare/{student}", "predictions"))
        yield [
            ("test frame", clip.frame(index)),
            (plain_name(recipe, student), colorize(before, dataset.label_set.colors)),
            (final, colorize(after, dataset.label_set.colors)),
            ("mask", colorize(clip.labels(index), dataset.label_set.colors)),
        ]


def middles(dataset: VideoDataset) -> Iterator[tuple[Clip, int]]:
    """The middle frames of the first and the last clip."""
    for clip in (dataset.clips[0], dataset.clips[-1]):
        yield clip, len(clip.stems) // 2


def draw(lines: list[Line], out: Path) -> None:
    """One row a frame."""
    height, width = lines[0][0][1].shape[:2]
    across = max(map(len, lines))
    figure = Figure(figsize=(2.4 * across, len(lines) * (2.4 * height / width + 0.25)), layout="constrained")
    for axes_of_line, line in zip(figure.subplots(len(lines), across), lines, strict=True):
        for axes, (title, picture) in zip(axes_of_line, line, strict=True):
            axes.set_axis_off()
            axes.imshow(picture, interpolation="nearest", cmap="magma", vmin=0, vmax=1)
            axes.set_title(title, fontsize=8, loc="left")
    figure.savefig(out, dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
