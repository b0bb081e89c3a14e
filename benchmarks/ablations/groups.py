"""What the tables of the ablation are made of: modes as overrides, subsets of labelled clips, and groups that share a recipe."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

RECIPES = Path(__file__).parents[2] / "recipes"
STUDENT = "labelled only"
CONTROL = "control, equal steps"
EQUAL_CPU = "control, equal CPU"  # as many more steps as "online", the dearest mode, takes CPU time
EVERYTHING = "all labels"
WITHOUT = ", no L_c"  # ends the name of a mode's twin
LIKELIHOOD = "online, -log p"  # the cross-entropy of equations 4 and 5 beside the losses of masks
NO_CONTRAST = "semi.contrast.weight=0"
CORE: dict[str, list[str]] = {
    STUDENT: [],
    CONTROL: ["semi.mode=supervised"],
    "online": ["semi.mode=online"],
    EQUAL_CPU: ["semi.mode=supervised"],
    f"online{WITHOUT}": ["semi.mode=online", NO_CONTRAST],
    "offline": ["semi.mode=offline"],
    f"offline{WITHOUT}": ["semi.mode=offline", NO_CONTRAST],
    EVERYTHING: [],
}
FALLING = (
    "semi.threshold={alpha=20}"  # as published: one threshold for all classes, which lets in every pixel in the end; compared without L_c
)
VARIANTS: dict[str, list[str]] = {
    "online, falling threshold": ["semi.mode=online", NO_CONTRAST, FALLING],
    "offline, falling threshold": ["semi.mode=offline", NO_CONTRAST, FALLING],
}
BOTH = "offline, teacher too"  # as in the paper's table 3; CPU seconds are the student's alone
FURTHER: dict[str, list[str]] = {
    BOTH: ["semi.mode=offline", "semi.retrain_teacher=true"],
    LIKELIHOOD: ["semi.mode=online", "semi.likelihood=1"],
    "online, two strong views": ["semi.mode=online", NO_CONTRAST, "semi.strong.views=2"],
    "online, earlier teachers": ["semi.mode=online", NO_CONTRAST, "semi.previous=3", "semi.previous_every=50"],
    "offline, 2 rounds": ["semi.mode=offline", NO_CONTRAST, "semi.rounds=2"],
    "offline, window 1": ["semi.mode=offline", NO_CONTRAST, "pseudo.window=1"],  # where frames follow each other closely: the toy world
}
# What could make L_c matter: ten and a hundred times its weight, then one thing at a time at ten times.
CONTRAST = {
    f"online, {name}": ["semi.mode=online", "semi.contrast.weight=1", *more]
    for name, more in {
        "L_c x 10": [],
        "L_c x 100": ["semi.contrast.weight=10"],
        "L_c x 10, tau 0.1": ["semi.contrast.temperature=0.1"],
        "L_c x 10, 1024 anchors, 200 negatives": ["semi.contrast.anchors=1024", "semi.contrast.negatives=200"],
        "L_c x 10, ranks 1 to 6": [  # classes that a pixel is more easily taken for
            "semi.contrast.low_rank=1",
            "semi.contrast.high_rank=6",
        ],
        "L_c x 10, bank of one step": ["semi.contrast.bank=256"],
        "L_c x 10, bank of 16 steps": ["semi.contrast.bank=4096"],
        "L_c x 10, stride 4": ["semi.contrast.stride=4"],
        "L_c x 10, alpha 20": ['semi.threshold={alpha=20, schedule="constant", per_class=true}'],  # fewer unsure pixels, more anchors
    }.items()
}
MODES = CORE | VARIANTS | FURTHER | CONTRAST


@dataclass(frozen=True)
class Subset:
    """What is labelled and what is not, as overrides; and further ones that label everything (none: another subset's run shows it)."""

    few: list[str]
    everything: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Group:
    """Runs that share a recipe and its overrides."""

    recipe: Path
    subsets: Mapping[str, Subset]
    fixed: tuple[str, ...] = ()
    modes: tuple[str, ...] = tuple(CORE)
    seeds: tuple[int, ...] = (0, 1, 2)
    validation: bool = False  # score the validation video too
    # modes that are scored with scales, flip and teacher too, on the first subset under the first seed; None = every cell
    in_full: tuple[str, ...] | None = None
    apart: bool = False  # whether subsets are questions of their own, not repetitions whose mean would mean something
    shares: str = ""  # group whose supervised models and pseudo labels serve this one too; none = its own


@dataclass(frozen=True)
class Cell:
    """One run."""

    group: str
    subset: str
    mode: str
    seed: int

    @property
    def name(self) -> str:
        """Folder name."""
        return "_".join(part.replace(" ", "-").replace(",", "") for part in (self.group, self.subset, self.mode, f"seed{self.seed}"))

    def is_known(self) -> bool:
        """Whether the groups of today have it."""
        return self.subset in GROUPS[self.group].subsets and self.mode in GROUPS[self.group].modes

    def key(self) -> dict[str, str | int]:
        """What finds its row."""
        return {"group": self.group, "subset": self.subset, "mode": self.mode, "seed": self.seed}


def toy_subset(first: int) -> Subset:
    """4 labelled clips from `first` on, and the 44 after them."""
    unlabelled = f"data.unlabelled.0.toy={{clips=44, first_clip={first + 4}}}"
    few, everything = (f"data.train.0.toy={{clips={clips}, first_clip={first}}}" for clips in (4, 48))
    return Subset([few, unlabelled], [everything])


ALL_OF_CAMVID = ["data.train.0.split=train", "data.train.0.labelled="]


def camvid_subset(name: str, everything: Sequence[str] = ()) -> Subset:
    """The lists `semi/<name>_labeled.txt` and `semi/<name>_unlabeled.txt`."""
    few = [f"data.train.0.labelled=semi/{name}_labeled.txt", f"data.unlabelled.0.split=semi/{name}_unlabeled.txt"]
    return Subset(few, list(everything))


def held_out(name: str, video: str) -> Subset:
    """The same without one training video, whose every second frame is what is scored. `held_out_lists` writes the lists."""
    few = {"train.0.labelled": "labeled", "unlabelled.0.split": "unlabeled", "train.0.split": "train", "test.0.split": "test"}
    return Subset([f"data.{key}={LISTS}/{name}-{video}-{part}.txt" for key, part in few.items()] + ["data.val="])


LISTS = "$LISTS"  # folder of the lists that hold a video out


def held_out_lists(overrides: list[str], folder: Path) -> list[str]:
    """The overrides with the folder's path in its place; lists that they name are written there."""
    filled = []
    for override in overrides:
        if LISTS in override:
            name, video, part = override.split(f"{LISTS}/")[1].removesuffix(".txt").split("-")
            root = Path(os.environ["SEMIVSS_CAMVID"])
            if part == "train":
                lines = [line for line in (root / "train.txt").read_text().split() if line != video]
            elif part == "test":
                lines = [f"{video}/{mask.stem}" for mask in sorted((root / "data" / video / "mask").glob("*.png"))[::2]]
            else:
                lines = [line for line in (root / "semi" / f"{name}_{part}.txt").read_text().split() if not line.startswith(f"{video}/")]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}-{video}-{part}.txt").write_text("\n".join(lines) + "\n")
        filled.append(override.replace(LISTS, str(folder.resolve())))
    return filled


def cropped(subset: Subset, crop: str) -> Subset:
    """The same with crops of another size."""
    return Subset([*subset.few, f"data.augment.crop={crop}"])


CAMVID = RECIPES / "camvid" / "semi_1_32.toml"
MASKS = RECIPES / "camvid" / "semi_mask2former_1_8.toml"
SINGLE = (STUDENT, CONTROL, "online", "offline")
CROPS = {"96x128": "[96, 128]", "192x256": "[192, 256]", "288x384": "[288, 384]"}
HALF = ("semi.train.steps=500", "semi.train.ema=0.996")  # of the retraining, and an average as much shorter: groups of one run a cell
TRIES = ("data.test.0.toy={clips=24, frames=8, first_clip=3000}", *HALF)  # on clips of no other table
LAST = ("train.evaluate_every=100000", "semi.train.evaluate_every=100000")  # no choice by the validation clips
TOY = Group(
    RECIPES / "toy.toml",
    {f"clips {first}-{first + 3}": toy_subset(first) for first in (0, 4)},
    (
        "data.test.0.toy={clips=24, frames=8, first_clip=2000}",
        "train.steps=800",
        "semi.train.steps=1000",
        "semi.train.ema=0.998",
        "semi.strong.mix_chance=1",
        "semi.contrast.share=1",
        "semi.contrast.anchors=256",
        "pseudo.align=0",
        "semi.controls=[]",
        *LAST,
    ),
    modes=(*CORE, BOTH),
)
BEYOND = (
    "online, falling threshold",
    "offline, falling threshold",
    "online, two strong views",
    "online, earlier teachers",
    "offline, 2 rounds",
    "offline, window 1",
)
GROUPS = {
    "toy": TOY,
    "toy_contrast": replace(
        TOY,
        fixed=(*TOY.fixed, *TRIES),
        modes=(CONTROL, "online", "online, no L_c", *CONTRAST),
        seeds=(0,),
        in_full=(),
        shares="toy",
    ),
    "toy_beyond": replace(
        TOY, fixed=(*TOY.fixed, *TRIES), modes=(CONTROL, "online, no L_c", "offline, no L_c", *BEYOND), seeds=(0,), in_full=(), shares="toy"
    ),
    "camvid": Group(
        CAMVID,
        {f"clips_1_32 seed {n}": camvid_subset(f"clips_1_32_seed{n}", ALL_OF_CAMVID if n == 0 else ()) for n in range(3)},
        modes=tuple(mode for mode in CORE if mode != EQUAL_CPU),
        seeds=(0,),
        validation=True,
        in_full=(STUDENT, CONTROL, "online", "offline"),
    ),
    "camvid_both": Group(  # as the paper's table 3: both models retrained, then their ensemble
        CAMVID,
        {"clips_1_32 seed 0": camvid_subset("clips_1_32_seed0")},
        modes=(BOTH,),
        seeds=(0,),
        validation=True,
        shares="camvid",
    ),
    "camvid_tries": Group(  # what the recipe's settings were chosen by: videos that no test is about
        CAMVID,
        {
            "clips_1_32 seed 0 without 0016E5_a": held_out("clips_1_32_seed0", "0016E5_a"),
            "clips_1_32 seed 1 without 0006R0": held_out("clips_1_32_seed1", "0006R0"),
        },
        LAST,
        modes=(STUDENT, CONTROL, "online, no L_c", "offline, no L_c"),
        seeds=(0,),
        in_full=(),
    ),
    "camvid_fractions": Group(
        CAMVID,
        {
            f"{name} seed 0": camvid_subset(f"{name}_seed0")
            for name in ("clips_1_16", "clips_1_8", "clips_1_4", "frames_1_32", "frames_1_8")
        },
        HALF,
        modes=SINGLE,
        seeds=(0,),
        validation=True,
        in_full=(),
        apart=True,
    ),
    "camvid_crops": Group(
        CAMVID,
        {f"crop {name}": cropped(camvid_subset("clips_1_32_seed0"), crop) for name, crop in CROPS.items()},
        HALF,
        modes=(STUDENT, CONTROL, "online"),
        seeds=(0,),
        validation=True,
        in_full=(),
        apart=True,
    ),
    "camvid_mask2former": Group(
        MASKS,
        {"clips_1_8 seed 0": camvid_subset("clips_1_8_seed0")},
        modes=(*SINGLE, LIKELIHOOD),
        seeds=(0, 1),
        validation=True,
        in_full=(CONTROL, "online", "offline"),
    ),
}
