"""The recipe of the retraining tests: imported by name, as `children` is."""

from pathlib import Path

from semivss.recipe import Recipe, parse_recipe

STEPS = 8


def semi_recipe(world: Path, **semi) -> Recipe:
    """Videos a and b with all masks, the same again as unlabelled video; a student of a dozen thousand weights."""
    source = {"kind": "vspw", "path": str(world)}
    train = {"steps": STEPS, "batch": 2, "lr": 3e-3, "threads": 1, "evaluate_every": 100, "checkpoint_every": 2, "log_every": 2}
    retrain = train | {"ema": 0.9}
    contrast = {"channels": 16, "bank": 64, "anchors": 16, "negatives": 8} | semi.pop("contrast", {})
    settings = {"unlabelled_batch": 3, "train": retrain | semi.pop("train", {}), "contrast": contrast} | semi
    return parse_recipe(
        {
            "name": "tiny",
            "data": {"train": [source], "unlabelled": [source], "test": [source | {"split": "val"}], "augment": {"crop": [32, 48]}},
            "model": {"pixel": {"channels": 16}},
            "train": train,
            "semi": settings,
        }
    )
