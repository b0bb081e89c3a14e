"""benchmarks/results/peers.jsonl in, docs/images/peers.png out: how many times as fast as the peer, which stands at 1.

python docs/peers_picture.py
"""

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
PEERS = {"transformers": "#c05a2e", "mmsegmentation": "#2e6da4", "torchmetrics": "#6b8e3d"}  # in whose row a bar stands, and its colour
BARS = {  # label: beginning of the row's `what`
    "8 scales x flip, score maps, direct": "score maps of 16 views, frame 480x853, 124 classes, direct",
    "8 scales x flip, score maps, exact": "score maps of 16 views, frame 480x853, 124 classes, exact",
    "Swin-T Mask2Former, a frame, bfloat16": "one frame 480x864, Swin-T Mask2Former, labels and entropies, precision bf16",
    "Swin-T Mask2Former, a frame": "one frame 480x864, Swin-T Mask2Former, labels and entropies, precision 32",
    "BEiT-B Mask2Former, 640x640, bfloat16": "forward pass 640x640, BEiT-B Mask2Former, precision bf16",
    "BEiT-B Mask2Former, 640x640": "forward pass 640x640, BEiT-B Mask2Former, precision 32",
    "training step, Swin-T, crop 512, bfloat16": "training step, Swin-T + Mask2Former, crop 512, batch 1, bf16",
    "training step, Swin-T, crop 512": "training step, Swin-T + Mask2Former, crop 512, batch 1, float32",
    "training crops, 480p to 896": "training crop, decoding included, 480x853 -> 896x896",
    "training crops, 480p to 512": "training crop, decoding included, 480x853 -> 512x512",
    "training crops, 1080p to 896": "training crop, decoding included, 1080x1920 -> 896x896",
    "confusion matrix of a label map": "confusion update, regions",
}


def main() -> None:
    rows = [json.loads(line) for line in (ROOT / "benchmarks/results/peers.jsonl").read_text().splitlines()]
    found = [
        (label, peer, row)
        for label, beginning in BARS.items()
        for peer in PEERS
        for row in rows
        if row["what"].startswith(beginning) and peer in row["against"] and "validate_args" not in row["against"] and row["ratio"]
    ]
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(found) + 1.1))
    for place, (_, peer, row) in enumerate(reversed(found)):
        low, high = row.get("ratio_range") or row["spread"]
        axes.barh(place, row["ratio"], color=PEERS[peer], height=0.66)
        axes.plot([low, high], [place, place], color="black", linewidth=1)
        axes.text(high * 1.06, place, f"{row['ratio']:.3g}", va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(0.8, 60)
    axes.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.set_yticks(range(len(found)), [label for label, _, _ in reversed(found)], fontsize=8)
    axes.set_xlabel("times as fast as the peer (= 1), one CPU thread; line: range over rounds", fontsize=8)
    shown = [peer for peer in PEERS if any(peer == other for _, other, _ in found)]
    axes.legend([plt.Rectangle((0, 0), 1, 1, color=PEERS[peer]) for peer in shown], [f"against {peer}" for peer in shown], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(ROOT / "docs/images/peers.png", dpi=130)


if __name__ == "__main__":
    main()
