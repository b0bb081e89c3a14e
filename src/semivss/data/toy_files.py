"""Toy settings in, a folder in the layout of VSPW out: frames as JPEG, masks as index PNG, and the flow if wanted."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from semivss.atomic import atomic_bytes, atomic_file, atomic_json
from semivss.data.labels import LabelSet
from semivss.data.toy import ToyClip, toy_dataset, toy_labels
from semivss.errors import DataError
from semivss.progress import say, track
from semivss.settings import Toy

SPLIT_STARTS = {"train": 0, "val": 1000, "test": 2000}  # clip numbers: three stretches of one world


def write_toy(out: Path, *, clips: int, frames: int, size: tuple[int, int], seed: int = 0, flow: bool = False) -> None:
    """Write `clips` training clips and a quarter as many (at least one) for val and for test. Raises as `write_vspw`."""
    counts = {"train": clips, "val": max(1, clips // 4), "test": max(1, clips // 4)}
    splits = {
        split: Toy(clips=count, labelled_clips=None, frames=frames, size=size, seed=seed, first_clip=SPLIT_STARTS[split])
        for split, count in counts.items()
    }
    write_vspw(out, splits, flow=flow)
    say(f"{out}: {sum(counts.values())} clips of {frames} frames, {size[1]}x{size[0]}; look at them with: semivss data check {out}")


def write_vspw(out: Path, splits: Mapping[str, Toy], *, flow: bool = False) -> None:
    """Write each split's clips under `data/` and its list `<split>.txt`; the lists come last, so half a set is no set.

    Masks hold id + 1, and 0 for what is no class; only labelled clips have them. With `flow`, `data/<video>/flow/<stem>.npz` holds
    `flow` (float32 2 H W, to the next frame) and `visible` (bool H W).

    Raises:
        DataError: `out` holds something already, or two splits share a clip.
        SemivssError: the folder cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is not empty; give a new folder, or remove what is there")
    datasets = {split: toy_dataset(toy).clips for split, toy in splits.items()}
    clips = [clip for group in datasets.values() for clip in group if isinstance(clip, ToyClip)]
    if len({clip.name for clip in clips}) < len(clips):
        raise DataError(f"{out}: two splits share a clip; let first_clip of each split begin after the clips of the others")
    labels = toy_labels()
    jobs = [(clip, index) for clip in clips for index in range(clip.length)]
    for clip, index in track(jobs, "toy world", total=len(jobs)):
        _write_frame(out / "data" / clip.name, clip, index, labels, flow and index + 1 < clip.length)
    atomic_json(out / "label_num_dic_final.json", {"others": "0"} | {name: str(number + 1) for number, name in enumerate(labels.names)})
    rows = enumerate(zip(labels.names, labels.colors, strict=True))
    atomic_json(out / "categories.json", [{"id": number, "name": name, "color": list(color)} for number, (name, color) in rows])
    for split, group in datasets.items():
        atomic_bytes(out / f"{split}.txt", "".join(f"{clip.name}\n" for clip in group).encode())


def _write_frame(folder: Path, clip: ToyClip, index: int, labels: LabelSet, flow: bool) -> None:
    stem = clip.stems[index]
    atomic_bytes(folder / "origin" / f"{stem}.jpg", _jpeg(clip.frame(index)), sync=False)
    if clip.is_labelled(index):
        atomic_bytes(folder / "mask" / f"{stem}.png", _mask_png(clip.labels(index), labels), sync=False)
    if flow:
        with atomic_file(folder / "flow" / f"{stem}.npz", sync=False) as file:
            np.savez_compressed(file, flow=clip.flow(index), visible=clip.visible(index))


def _jpeg(frame: UInt8[np.ndarray, "H W 3"]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _mask_png(ids: UInt8[np.ndarray, "H W"], labels: LabelSet) -> bytes:
    image = Image.fromarray(ids + np.uint8(1))  # 255 wraps to 0, "others"
    image.putpalette(bytes(3) + labels.palette()[:-3])
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
