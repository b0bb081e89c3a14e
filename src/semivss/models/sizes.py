"""The numbers that make a backbone of a family tiny or large."""

from dataclasses import dataclass

from semivss.errors import RecipeError

PATCH = 16  # pixels a side, of all trunks


def _demand_positive(where: str, sizes: object, *names: str) -> None:
    """Raise RecipeError for a size, or one of several, that is not above 0."""
    for name in names:
        value = getattr(sizes, name)
        if not all(number > 0 for number in (value if isinstance(value, tuple | list) else (value,))):
            raise RecipeError(f"{where}: {name} must be above 0, got {list(value) if isinstance(value, tuple) else value}")


@dataclass(frozen=True, kw_only=True)
class TrunkSizes:
    """A trunk of equal blocks, and the adapter round it; a trunk without adapter leaves the adapter's numbers unused."""

    width: int
    depth: int
    heads: int
    feedforward: int
    grid: tuple[int, int]  # rows and columns of patches that its learned positions are made for
    stages: tuple[tuple[int, int], ...]  # first and last block of each; features are taken after the last ones
    windows: tuple[int, ...] = ()  # plain ViT: patches a side of each block's windows, 0 = the whole image; () = 0 in all
    layer_scale: float = 1e-6  # start value of the factor on what a block adds
    prior: int = 64  # channels of the spatial prior's first convolutions
    points: int = 4  # places a head and map
    deform_heads: int = 16
    deform_ratio: float = 0.5  # width of the values of deformable attention, as a share of `width`
    conv_ratio: float = 0.25  # inner width of the extractors' feed-forward part, as a share of `width`
    injector_scale: float = 1e-6  # start value of the factor on what an injector adds

    def __post_init__(self) -> None:
        _demand_positive("model.trunk", self, "width", "depth", "heads", "feedforward", "grid", "prior", "points", "deform_heads")
        _demand_positive("model.trunk", self, "deform_ratio", "conv_ratio")
        inner = int(self.width * self.deform_ratio)
        if self.width % self.heads:
            raise RecipeError(f"model.trunk: width {self.width} must be a multiple of heads {self.heads}")
        if inner % self.deform_heads:
            raise RecipeError(f"model.trunk: width x deform_ratio = {inner} must be a multiple of deform_heads {self.deform_heads}")
        ends = [(0, -1), *self.stages]
        follow = all(first == before[1] + 1 and last >= first for before, (first, last) in zip(ends, self.stages, strict=False))
        if len(self.stages) != 4 or not follow or self.stages[-1][1] != self.depth - 1:
            shown = [list(stage) for stage in self.stages]
            raise RecipeError(f"model.trunk: stages {shown} must be four, one after the other, over blocks 0 to {self.depth - 1}")
        if self.windows and len(self.windows) != self.depth:
            raise RecipeError(f"model.trunk: windows has {len(self.windows)} numbers for {self.depth} blocks; give one each, or none")


@dataclass(frozen=True, kw_only=True)
class SwinSizes:
    """A Swin transformer."""

    width: int  # of the first stage; each further one has twice that
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int  # patches a side

    def __post_init__(self) -> None:
        _demand_positive("model.swin", self, "width", "depths", "heads", "window")
        if len(self.depths) != 4 or len(self.heads) != 4:
            raise RecipeError(f"model.swin: depths {list(self.depths)} and heads {list(self.heads)} need four numbers each")
        if wrong := [heads for stage, heads in enumerate(self.heads) if (self.width << stage) % heads]:
            raise RecipeError(f"model.swin: heads {wrong[0]} must divide the width of its stage; the first has {self.width}")
