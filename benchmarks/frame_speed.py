"""What does one frame cost, from pixels to labels and entropies? Our stream against transformers' and mmsegmentation's Mask2Former.

    python benchmarks/frame_speed.py --peers FOLDER            7 rounds; FOLDER: see peers/install.py
    python benchmarks/frame_speed.py --peers FOLDER --quick    1 round

One frame of 480x864, Swin-T with a Mask2Former head of 256 channels, 100 queries and 124 classes, 47 M parameters, the same random weights
on all sides: a folder of transformers, converted by `weights convert`, and given to mmsegmentation under its names. Each side normalises
the frame, runs the network and makes the labels (arg max) and the entropies of the class distribution at the frame's size:

ours            `stream_scores` of one model and one view, then `read_answers`: labels and codes of entropies; float32, and bfloat16
                under autocast
transformers    `Mask2FormerForUniversalSegmentation`; masks upsampled to the frame, sigmoid, mixed with the class probabilities (as the
                authors' code does; transformers' own post-processing shrinks every mask to 384x384 first), divided by their sum
mmsegmentation  `EncoderDecoder.test_step`, which makes the same scores; divided by their sum

Neither peer knows entropies; theirs take `against_entropy`, in one expression, and `ratio_labels_only` is the ratio without it, ours
with. `equal_labels` is the share of equal labels and `entropy_difference` the mean difference (where the votes of a pixel sum up to less
than 1, ours are unsure of the rest). Made from our network's masks by the peers' formula, `equal_labels_by_their_formula` are equal;
`mask_difference` is the largest difference of mask logits from transformers', beside their
standard deviation. Sides take turns in one process on one thread.
"""

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Mask2FormerForUniversalSegmentation, SwinConfig

from peers.mmseg_mask2former import mmseg_scores
from peers.side_by_side import alternated, emit, installed, named, options_of, short
from semivss.data.codes import entropy_of_code
from semivss.infer.answers import read_answers
from semivss.infer.stream import stream_scores
from semivss.models.mask2former import transformers_config
from semivss.models.segmenter import Segmenter
from semivss.models.weights.convert import convert
from semivss.settings import Mask2FormerHead

SIZE, CLASSES = (480, 864), 124
FLOORS = {"32": 1.5, "bf16": 2.5}  # bf16 with AMX
Answer = tuple[Tensor, Tensor]  # labels, entropies


@torch.inference_mode()
def main() -> None:
    options = options_of(__doc__, rounds=7)
    torch.set_num_threads(1)
    frame = picture()
    theirs = random_model()
    ours = converted(theirs)
    sides: dict[str, Callable[[], Answer]] = {
        "32": lambda: segment(ours, frame, "32"),
        "bf16": lambda: segment(ours, frame, "bf16"),
        "transformers": lambda: answer(transformers_scores(theirs, ours, frame)),
    }
    if installed("mmseg"):
        scores = mmseg_scores(ours)
        sides["mmsegmentation"] = lambda: answer(scores(frame))
    last: dict[str, Answer] = {}
    example = transformers_scores(theirs, ours, frame)
    calls: dict[str, list[Callable[[], object]]] = {name: [noting(name, side, last)] for name, side in sides.items()}
    times = alternated(calls | {"entropy": [lambda: score_entropy(example)]}, 1 if options.quick else options.rounds)
    same = compared(theirs, ours, frame) | {"labels": len(last["32"][0].unique())}
    alone = statistics.median(times["entropy"])
    for precision, floor in FLOORS.items():
        for peer in ("transformers", "mmsegmentation"):
            more: dict[str, object] = {"floor": floor}
            if peer in sides:
                ratios = [(other - alone) / own for own, other in zip(times[precision], times[peer], strict=True)]
                more["ratio_labels_only"] = short(statistics.median(ratios))
                more["against_entropy"] = short(1000 * alone)
                more["equal_labels"] = round((last[precision][0] == last[peer][0]).float().mean().item(), 6)
                more["entropy_difference"] = short((last[precision][1] - last[peer][1]).abs().mean().item())
            if precision == "bf16":
                more["amx"] = "amx_bf16" in cpu_flags()
            what = f"one frame {SIZE[0]}x{SIZE[1]}, Swin-T Mask2Former, labels and entropies, precision {precision}"
            against = named(peer) if peer in sides else peer
            emit(what, times, precision, peer, against + ", full-size masks", unit="a frame", **more, **same)


def random_model() -> Mask2FormerForUniversalSegmentation:
    """Weights with which masks and classes differ as those of a trained model do; transformers' own make every mask logit 0."""
    torch.manual_seed(0)
    config = transformers_config(Mask2FormerHead(), CLASSES)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    config.backbone_config = SwinConfig(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7, out_features=stages)
    model = Mask2FormerForUniversalSegmentation(config).eval()
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
    nn.init.normal_(model.model.pixel_level_module.decoder.level_embed)
    nn.init.normal_(model.class_predictor.weight, std=0.3)
    for layer in model.model.transformer_module.decoder.layers:  # else nine layers make all queries alike
        for branch in (layer.cross_attn.out_proj, layer.self_attn.out_proj, layer.fc2):
            branch.weight.mul_(0.1)
    return model


def converted(theirs: Mask2FormerForUniversalSegmentation) -> Segmenter:
    """The same weights in a model of ours."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        theirs.save_pretrained(Path(folder) / "theirs")
        convert(Path(folder) / "theirs", Path(folder) / "ours")
        return Segmenter.from_pretrained(Path(folder) / "ours")


def picture() -> np.ndarray:
    """Smooth colours with some noise."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.random((1, 3, 9, 15), np.float32) * 255)
    smooth = F.interpolate(coarse, SIZE, mode="bicubic")[0].permute(1, 2, 0).numpy()
    return np.clip(smooth + random.normal(0, 8, (*SIZE, 3)), 0, 255).astype(np.uint8)


def segment(model: Segmenter, frame: np.ndarray, precision: str) -> Answer:
    """Ours."""
    (scores,) = stream_scores([model], None, [frame], precision=precision)
    found = read_answers(scores, entropy=True)
    assert found.codes is not None
    return torch.from_numpy(found.labels).long(), torch.from_numpy(entropy_of_code(found.codes, CLASSES))


def transformers_scores(theirs: Mask2FormerForUniversalSegmentation, ours: Segmenter, frame: np.ndarray) -> Tensor:
    """Class scores at the frame's size, which needs no padding; colours as our model takes them."""
    output = theirs(pixel_values=(as_batch(frame).float() - ours.mean) / ours.std)
    return full_size_scores(output.class_queries_logits, output.masks_queries_logits)


def as_batch(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(frame).permute(2, 0, 1)[None]


def full_size_scores(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """C H W, of one image."""
    masks = F.interpolate(mask_logits, SIZE, mode="bilinear", align_corners=False).sigmoid()
    return torch.einsum("bqc,bqhw->bchw", class_logits.softmax(-1)[..., :-1], masks)[0]


def answer(scores: Tensor) -> Answer:
    """Labels and entropies of a peer's scores."""
    return scores.argmax(0), score_entropy(scores)


def score_entropy(scores: Tensor) -> Tensor:
    return torch.special.entr(scores / scores.sum(0)).sum(0)


def noting(name: str, side: Callable[[], Answer], last: dict[str, Answer]) -> Callable[[], None]:
    """The same, whose last result is kept."""

    def noted() -> None:
        last[name] = side()

    return noted


def compared(theirs: Mask2FormerForUniversalSegmentation, ours: Segmenter, frame: np.ndarray) -> dict[str, object]:
    """How far our network is from transformers'."""
    own = ours(as_batch(frame))
    reference = theirs(pixel_values=(as_batch(frame).float() - ours.mean) / ours.std)
    difference = (own.mask_logits - reference.masks_queries_logits).abs().max().item()
    scores = (
        full_size_scores(own.class_logits, own.mask_logits),
        full_size_scores(reference.class_queries_logits, reference.masks_queries_logits),
    )
    return {
        "equal_labels_by_their_formula": round((scores[0].argmax(0) == scores[1].argmax(0)).float().mean().item(), 6),
        "mask_difference": [short(difference), short(reference.masks_queries_logits.std().item())],
    }


def cpu_flags() -> set[str]:
    cpuinfo = Path("/proc/cpuinfo")
    line = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "") if cpuinfo.exists() else ""
    return set(line.split())


if __name__ == "__main__":
    main()
