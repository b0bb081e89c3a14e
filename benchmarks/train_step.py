"""Two training steps in, their CPU times out: the small Mask2Former with the valid-pixel loss, and transformers' own with its own loss.

Both have the same backbone, head sizes, points and optimiser, see the same batch with 10 % ignored pixels, and take turns in one
process on one thread: forward, loss, backward, AdamW. The masks that transformers' loss wants are prepared outside its time.
`--quick` takes fewer steps.
"""

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version

import torch
from torch import Tensor
from transformers import Mask2FormerForUniversalSegmentation, TimmBackboneConfig

from semivss.data.labels import LabelSet, distinct_colors
from semivss.losses.supervised import supervised_loss
from semivss.models.mask2former import transformers_config
from semivss.models.zoo import build_segmenter
from semivss.settings import Mask2FormerHead, Model

HEADS = {
    "small": Mask2FormerHead(
        channels=64, queries=20, encoder_layers=2, decoder_layers=3, heads=4, encoder_feedforward=256, feedforward=256, points=2048
    ),
    "medium": Mask2FormerHead(
        channels=128, queries=50, encoder_layers=3, decoder_layers=3, heads=8, encoder_feedforward=512, feedforward=512, points=2048
    ),
}
CLASSES = 11


def batch_of(size: tuple[int, int], images: int) -> tuple[Tensor, Tensor]:
    """Frames and blocky labels of all classes with an ignored stripe."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    frames = torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8, generator=generator)
    blocks = torch.randint(0, CLASSES, (images, height // 16, width // 16), dtype=torch.uint8, generator=generator)
    labels = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels[:, : height // 10] = 255
    return frames, labels


def our_step(backbone: str, head: Mask2FormerHead, frames: Tensor, labels: Tensor) -> Callable[[], float]:
    settings = Model(backbone=f"timm/{backbone}", head="mask2former", mask2former=head)
    names = tuple(f"class {index}" for index in range(CLASSES))
    model = build_segmenter(settings, LabelSet("benchmark", names, distinct_colors(CLASSES), (False,) * CLASSES)).train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4)
    generator = torch.Generator().manual_seed(0)

    def step() -> float:
        optimiser.zero_grad()
        loss = torch.stack(list(supervised_loss(model(frames), labels, settings, generator).values())).sum()
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def their_step(backbone: str, head: Mask2FormerHead, frames: Tensor, labels: Tensor) -> Callable[[], float]:
    config = transformers_config(head, CLASSES)
    config.backbone_config = TimmBackboneConfig(backbone=backbone, out_indices=[-4, -3, -2, -1], use_pretrained_backbone=False)
    model = Mask2FormerForUniversalSegmentation(config).train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4)
    pixels = (frames.float() / 255 - 0.5) / 0.5
    ids = [[int(value) for value in image.unique() if value != 255] for image in labels]
    masks = [torch.stack([image == value for value in present]).float() for image, present in zip(labels, ids, strict=True)]
    classes = [torch.tensor(present) for present in ids]

    def step() -> float:
        optimiser.zero_grad()
        loss = model(pixel_values=pixels, mask_labels=masks, class_labels=classes).loss
        loss.backward()
        optimiser.step()
        return float(loss.item())

    return step


def measure(backbone: str, head: str, size: tuple[int, int], images: int, rounds: int) -> None:
    frames, labels = batch_of(size, images)
    steps = {"semivss": our_step(backbone, HEADS[head], frames, labels), "transformers": their_step(backbone, HEADS[head], frames, labels)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if turn >= 2:
                times[name].append(time.process_time() - start)
    ratios = [ours / theirs for ours, theirs in zip(times["semivss"], times["transformers"], strict=True)]
    setting = f"{size[0]}x{size[1]}, batch {images}, {torch.get_num_threads()} thread, fp32"
    row = {
        "what": f"training step, {backbone} + {head} Mask2Former, {setting}",
        "value": round(1000 * statistics.median(times["semivss"]), 1),
        "unit": "ms CPU (median)",
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "against": f"transformers {version('transformers')} Mask2FormerForUniversalSegmentation with its loss",
        "against_value": round(1000 * statistics.median(times["transformers"]), 1),
        "rounds": rounds,
        "machine": f"{platform.machine()}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
    }
    print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 rounds of the first case only")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    cases = [("tf_efficientnet_lite0", "small"), ("tf_efficientnet_lite0", "medium"), ("resnet18", "small")]
    for backbone, head in cases[:1] if options.quick else cases:
        torch.manual_seed(0)
        measure(backbone, head, (128, 160), 4, 5 if options.quick else 15)


if __name__ == "__main__":
    main()
