"""What does one crop cost in the largest models? Time, peak memory, and the share of deformable attention, on random weights in bfloat16.

    python benchmarks/backbones.py            as --quick
    python benchmarks/backbones.py --quick    base sizes, crop 512: under a minute
    python benchmarks/backbones.py --full     ViT-Adapter-L and ONE-PEACE, crop 896: minutes, and up to 14 GB
    python benchmarks/backbones.py --full --only vit_adapter_l

Backbone and published Mask2Former head (171 classes), evaluation mode, each model in a process of its own. Values are random: nothing
measured here depends on them.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from semivss.data.labels import LabelSet, distinct_colors
from semivss.models.deform_attn import DeformableAttention
from semivss.models.segmenter import Segmenter
from semivss.models.zoo import build_segmenter
from semivss.settings import Mask2FormerHead, Model

CLASSES = 171
HEAD = {
    "large": Mask2FormerHead(channels=1024, queries=200, heads=32, encoder_feedforward=4096, feedforward=4096),
    "base": Mask2FormerHead(),
}
FULL = {"vit_adapter_l": 8.0, "one_peace_l": 14.0}  # GB that the forward pass should stay inside
QUICK = ("vit_adapter_b", "one_peace_b")


def main() -> None:
    """Measure each model in a child."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", help="one model instead of both")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(options.child)
        return
    names = (options.only,) if options.only else tuple(FULL) if options.full else QUICK
    for name in names:
        subprocess.run([sys.executable, __file__, "--child", name], check=True)


@torch.inference_mode()
def measure(name: str) -> None:
    """Rows of one model."""
    crop, head = (896, HEAD["large"]) if name in FULL else (512, HEAD["base"])
    start = peak()
    model = random_model(Model(backbone=name, head="mask2former", mask2former=head))
    built = peak()
    image = torch.randn(1, 3, crop, crop, dtype=torch.bfloat16)
    spent: dict[str, float] = {}
    with timed(model.backbone, "backbone", spent), timed_attention(model, spent):
        before = time.process_time()
        model.head(model.backbone(image))
        total = time.process_time() - before
    parameters = sum(parameter.numel() for parameter in model.parameters())
    common = {"model": f"{name} with Mask2Former, {parameters / 1e6:.1f} M parameters, bfloat16", "crop": crop}
    limit = FULL.get(name)
    rows = [
        {"what": "forward of one crop", "value": round(total, 2), "unit": "CPU s", "ratio": None},
        {"what": "its backbone", "value": round(spent["backbone"], 2), "unit": "CPU s", "ratio": round(spent["backbone"] / total, 3)},
        {"what": "its deformable attention", "value": round(spent["attention"], 2), "ratio": round(spent["attention"] / total, 3)},
        {"what": "its bilinear sampling", "value": round(spent["sampling"], 2), "ratio": round(spent["sampling"] / total, 3)},
        {"what": "peak memory", "value": round(peak(), 2), "unit": "GB", "ratio": limit and round(peak() / limit, 3), "limit": limit},
        {"what": "memory before the crop", "value": round(built, 2), "unit": "GB", "ratio": None, "imports": round(start, 2)},
    ]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    for row in rows:
        against = {"against": "the whole forward pass" if row.get("unit") != "GB" else "limit"} if row["ratio"] is not None else {}
        print(json.dumps({"unit": "CPU s"} | row | against | common | {"machine": machine}), flush=True)


def random_model(settings: Model) -> Segmenter:
    """Made on the meta device first: no moment holds the weights twice, or in float32."""
    labels = LabelSet("any", tuple(f"class {number}" for number in range(CLASSES)), distinct_colors(CLASSES), (False,) * CLASSES)
    with torch.device("meta"):
        model = build_segmenter(settings, labels)
    model = model.bfloat16().to_empty(device="cpu").eval()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            nn.init.normal_(parameter, std=0.02)
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            module.reset_parameters()
        if isinstance(module, nn.BatchNorm2d | DeformableAttention):
            module.reset_parameters()
    return model


@contextmanager
def timed(module: nn.Module, name: str, spent: dict[str, float]) -> Iterator[None]:
    """Add up the CPU time of a module's calls."""
    starts: list[float] = []
    handles = [
        module.register_forward_pre_hook(lambda *_: starts.append(time.process_time())),
        module.register_forward_hook(lambda *_: spent.__setitem__(name, spent.get(name, 0) + time.process_time() - starts.pop())),
    ]
    yield
    for handle in handles:
        handle.remove()


@contextmanager
def timed_attention(model: nn.Module, spent: dict[str, float]) -> Iterator[None]:
    """Of all deformable attention, and of the sampling inside it."""
    contexts = [timed(module, "attention", spent) for module in model.modules() if isinstance(module, DeformableAttention)]
    sample = DeformableAttention.sample

    def timed_sample(*given: object) -> object:
        before = time.process_time()
        result = sample(*given)
        spent["sampling"] = spent.get("sampling", 0) + time.process_time() - before
        return result

    for context in contexts:
        context.__enter__()
    DeformableAttention.sample = staticmethod(timed_sample)
    yield
    DeformableAttention.sample = staticmethod(sample)
    for context in contexts:
        context.__exit__(None, None, None)


def peak() -> float:
    """Largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
