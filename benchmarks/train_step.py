"""What does a training step cost? Our Mask2Former with the valid-pixel loss against transformers' own with its own loss.

    python benchmarks/train_step.py            15 rounds a small case, 7 of Swin-T
    python benchmarks/train_step.py --quick    5 rounds of the first case only

A step is forward, loss, backward and AdamW, of each side's own choice: ours is `build_optimizer`'s, which updates all weights in one pass.
Both sides have the same backbone, head sizes and points, see the same batch, and take turns in one process on one thread; the masks that
transformers' loss wants are prepared outside its time.

small cases     timm backbones, crops of 128x160, 11 classes, a tenth of the pixels ignored
Swin-T          crop 512, batch 1, 124 classes of which 12 are seen, 100 queries, 12544 points, every pixel labelled, the same weights
                on both sides (`frame_speed.py`); ours also under bf16 autocast. `loss_difference` is ours over theirs - 1, means
                over draws of the points under the first weights, and `loss_spread` the same between halves of their own draws.
"""

import statistics
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import Mask2FormerForUniversalSegmentation, TimmBackboneConfig

from frame_speed import converted, cpu_flags, random_model
from peers.side_by_side import alternated, emit, named, options_of, short
from semivss.data.labels import LabelSet, distinct_colors
from semivss.losses.supervised import supervised_loss
from semivss.models.mask2former import transformers_config
from semivss.models.segmenter import Segmenter
from semivss.models.zoo import build_segmenter
from semivss.settings import Mask2FormerHead, Model, Train
from semivss.train.optim import build_optimizer

HEADS = {
    "small": Mask2FormerHead(
        channels=64, queries=20, encoder_layers=2, decoder_layers=3, heads=4, encoder_feedforward=256, feedforward=256, points=2048
    ),
    "medium": Mask2FormerHead(
        channels=128, queries=50, encoder_layers=3, decoder_layers=3, heads=8, encoder_feedforward=512, feedforward=512, points=2048
    ),
}
SMALL = (("tf_efficientnet_lite0", "small"), ("tf_efficientnet_lite0", "medium"), ("resnet18", "small"))
CLASSES, SEEN = 11, 12
RATE = 1e-5
FLOOR, DRAWS = 1.5, 8
Loss = Callable[[], Tensor]


def main() -> None:
    options = options_of(__doc__, rounds=15)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for backbone, head in SMALL[:1] if options.quick else SMALL:
        measure_small(backbone, HEADS[head], head, 5 if options.quick else options.rounds)
    if not options.quick:
        measure_swin(max(1, options.rounds // 2))


def measure_small(backbone: str, head: Mask2FormerHead, name: str, rounds: int) -> None:
    """One row."""
    torch.manual_seed(0)
    frames, labels = batch_of((128, 160), 4, CLASSES, cell=16)
    labels[:, :12] = 255
    names = tuple(f"class {index}" for index in range(CLASSES))
    label_set = LabelSet("benchmark", names, distinct_colors(CLASSES), (False,) * CLASSES)
    ours = build_segmenter(Model(backbone=f"timm/{backbone}", head="mask2former", mask2former=head), label_set)
    config = transformers_config(head, CLASSES)
    config.backbone_config = TimmBackboneConfig(backbone=backbone, out_indices=[-4, -3, -2, -1], use_pretrained_backbone=False)
    theirs = Mask2FormerForUniversalSegmentation(config)
    sides = {
        "semivss": our_step(ours, our_loss(ours, frames, labels)),
        "transformers": their_step(theirs, their_loss(theirs, (frames.float() / 255 - 0.5) / 0.5, labels)),
    }
    times = alternated({side: [step] for side, step in sides.items()}, rounds)
    report(f"training step, {backbone} + {name} Mask2Former, 128x160, batch 4, float32", times, "semivss")


def measure_swin(rounds: int) -> None:
    """Two rows."""
    with torch.no_grad():
        theirs = random_model()
    ours = converted(theirs).train()
    theirs.train()
    for module in theirs.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0  # ours is built without stochastic depth
    frames, labels = batch_of((512, 512), 1, SEEN, cell=64)
    pixels = (frames.float() - ours.mean) / ours.std
    own, peer = our_loss(ours, frames, labels), their_loss(theirs, pixels, labels)
    with torch.no_grad():
        mine, others = ([loss().item() for _ in range(DRAWS)] for loss in (own, peer))
    same = {
        "loss_difference": short(statistics.mean(mine) / statistics.mean(others) - 1),
        "loss_spread": short(statistics.mean(others[::2]) / statistics.mean(others[1::2]) - 1),
    }
    step = our_step(ours, own)

    def in_bf16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            step()

    sides = {"semivss": step, "semivss bf16": in_bf16, "transformers": their_step(theirs, peer)}
    times = alternated({side: [each] for side, each in sides.items()}, rounds)
    what = "training step, Swin-T + Mask2Former, crop 512, batch 1"
    report(f"{what}, float32", times, "semivss", floor=FLOOR, **same)
    report(f"{what}, bf16 against float32", times, "semivss bf16", floor=FLOOR, amx="amx_bf16" in cpu_flags())


def report(what: str, times: dict[str, list[float]], side: str, **more: object) -> None:
    emit(
        what,
        times,
        side,
        "transformers",
        f"{named('transformers')} Mask2FormerForUniversalSegmentation with its loss",
        unit="a step",
        **more,
    )


def batch_of(size: tuple[int, int], images: int, classes: int, cell: int) -> tuple[Tensor, Tensor]:
    """Frames and blocky labels of all classes."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    frames = torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8, generator=generator)
    blocks = torch.randint(0, classes, (images, height // cell, width // cell), dtype=torch.uint8, generator=generator)
    return frames, blocks.repeat_interleave(cell, 1).repeat_interleave(cell, 2)


def our_loss(model: Segmenter, frames: Tensor, labels: Tensor) -> Loss:
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.stack(list(supervised_loss(model(frames), labels, model.settings, generator).values())).sum()


def our_step(model: Segmenter, loss: Loss) -> Callable[[], None]:
    return step_of(loss, build_optimizer(model.train(), Train(lr=RATE)))


def their_loss(model: Mask2FormerForUniversalSegmentation, pixels: Tensor, labels: Tensor) -> Loss:
    ids = [[int(value) for value in image.unique() if value != 255] for image in labels]
    masks = [torch.stack([image == value for value in present]).float() for image, present in zip(labels, ids, strict=True)]
    classes = [torch.tensor(present) for present in ids]
    return lambda: model(pixel_values=pixels, mask_labels=masks, class_labels=classes).loss.squeeze()


def their_step(model: nn.Module, loss: Loss) -> Callable[[], None]:
    return step_of(loss, torch.optim.AdamW(model.train().parameters(), RATE))


def step_of(loss: Loss, optimiser: torch.optim.Optimizer) -> Callable[[], None]:
    def step() -> None:
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()

    return step


if __name__ == "__main__":
    main()
