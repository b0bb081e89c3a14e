"""Pseudo labels as files: what is written, what is read back, and what is refused."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from semivss.data.clips import VideoDataset
from semivss.data.codes import ABOVE, code_of_entropy
from semivss.data.labels import LabelSet
from semivss.data.pseudo import PseudoFolder, check_classes, open_pseudo
from semivss.errors import DataError, DefectError, SemivssError
from semivss.infer.inputs import ClipInput, Frames, OnDefect, open_inputs
from semivss.infer.manifest import model_hash
from semivss.infer.predict import predict
from semivss.infer.pseudo import pseudo_label
from semivss.infer.stream import stream_distribution
from semivss.infer.views import views_from
from semivss.posterior import entropy
from semivss.settings import Predict, PseudoLabels, Views
from semivss.temporal.window import Labelled, window_mean
from semivss.tensors import MaskLogits, PixelLogits

CLASSES = LabelSet("three", ("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)), (False,) * 3)
SIZE = (24, 40)


class ColorModel(nn.Module):
    """The strongest colour channel is the class; a frame whose first pixel is `poison` gets NaN."""

    rule = "spread"
    label_set = CLASSES

    def __init__(self, gain: float = 0.03, poison: int | None = None) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.poison, self.frames = poison, 0

    def forward(self, frames: Tensor) -> PixelLogits:
        self.frames += len(frames)
        logits = frames.float() * self.gain
        for index, frame in enumerate(frames):
            if self.poison is not None and int(frame[0, 0, 0]) == self.poison:
                logits[index, 1, 2, 3] = float("nan")
        return PixelLogits(logits, frames.float())


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def clips(root: Path, videos: int = 2, frames: int = 3) -> Path:
    for video in range(videos):
        (root / f"v{video}").mkdir(parents=True)
        for index in range(frames):
            Image.fromarray(picture(10 * video + index)).save(root / f"v{video}" / f"{index:04d}.png")
    return root


def dataset(root: Path, label_set: LabelSet = CLASSES) -> VideoDataset:
    return VideoDataset("clips", label_set, tuple(video.clip for video in open_inputs(root) if isinstance(video, ClipInput)))


def made(tmp_path: Path, settings: PseudoLabels = PseudoLabels(), models: list[ColorModel] | None = None) -> Path:  # noqa: B008
    pseudo_label(models or [ColorModel()], open_inputs(clips(tmp_path / "in")), tmp_path / "out", settings)
    return tmp_path / "out"


def files(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file() and path.name[0] != "."
    }


def edit(out: Path, name: str = "v0/0001", value: int = 2, size: tuple[int, int] = SIZE) -> np.ndarray:
    labels = np.full(size, value, np.uint8)
    Image.fromarray(labels).save(out / f"{name}.png")
    return labels


def test_labels_and_codes_are_those_of_the_fused_distribution(tmp_path: Path) -> None:
    models, views = [ColorModel(), ColorModel(0.01)], Views(scales=(1.0, 1.5), flip=True)
    out = made(tmp_path, PseudoLabels(views=views, weights=(3.0, 1.0), top_classes=2, confidence=True), models)
    folder = open_pseudo(out)
    (p,) = stream_distribution(models, (3.0, 1.0), [picture(11)], views_from(views))
    assert np.array_equal(folder.labels("v1", "0001"), p.argmax(0).numpy())
    codes = folder.codes("v1", "0001")
    assert codes.dtype == np.uint16
    assert np.array_equal(codes, code_of_entropy(entropy(p[None])[0].numpy(), 3))
    top = folder.top_classes("v1", "0001")
    assert top is not None
    assert top.shape == (2, 3, 5)
    cell = p[:, 8:16, 16:24].mean((1, 2))
    assert top[:, 1, 2].tolist() == cell.argsort(descending=True)[:2].tolist()
    with Image.open(out / "confidence" / "v1" / "0001.png") as image:
        np.testing.assert_allclose(np.asarray(image) / 255, p.max(0).values.numpy(), atol=0.5 / 255 + 1e-6)
    assert not list(out.glob("*.mp4"))


def test_only_what_is_asked_for_is_written(tmp_path: Path) -> None:
    out = made(tmp_path)
    names = {Path(name).parts[0] for name in files(out)}
    assert names == {"v0", "v1", "entropy", "histograms", "records", "histogram.npz", "manifest.json"}
    assert open_pseudo(out).top_classes("v0", "0000") is None


def test_the_manifest_says_what_they_were_made_from(tmp_path: Path) -> None:
    model = ColorModel()
    out = made(tmp_path, PseudoLabels(views=Views(flip=True)), [model])
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["made_from"]["models"] == [model_hash(model)]
    assert manifest["made_from"]["weights"] == [1.0]
    assert manifest["made_from"]["views"]["flip"] is True
    assert (manifest["ids"], manifest["ignore"], manifest["label_set"]) == ({"0": "red", "1": "green", "2": "blue"}, 255, "three")
    assert "torch" in manifest["versions"]


def test_thresholds_come_from_the_stored_codes_and_need_no_labelling(tmp_path: Path) -> None:
    """Another alpha is another reading of the same files."""
    model = ColorModel()
    folder = open_pseudo(made(tmp_path, models=[model]))
    frames, before = model.frames, files(folder.folder)
    codes = np.concatenate([folder.codes(video, stem).ravel() for video in folder.stems for stem in folder.stems[video]])
    labels = np.concatenate([folder.labels(video, stem).ravel() for video in folder.stems for stem in folder.stems[video]])
    for alpha in (5.0, 20.0, 50.0):
        threshold = folder.thresholds(alpha)[0]
        exact = np.percentile(codes, 100 - alpha, method="lower")
        assert threshold <= exact < threshold + 16
        for label, code in enumerate(folder.thresholds(alpha, per_class=True)):
            exact = np.percentile(codes[labels == label], 100 - alpha, method="lower")
            assert code <= exact < code + 16
    assert folder.thresholds(0.0)[0] == ABOVE
    assert (model.frames, files(folder.folder)) == (frames, before)


def test_equal_entropies_leave_nothing_reliable(tmp_path: Path) -> None:
    folder = open_pseudo(made(tmp_path, models=[ColorModel(0.0)]))
    assert not (folder.codes("v0", "0000") < folder.thresholds(20.0)[0]).any()
    classes = folder.thresholds(20.0, per_class=True)
    assert classes[0] <= 65535  # the uniform pixels all have the label 0
    assert classes[1] == classes[2] == ABOVE


def test_a_window_of_frames_is_their_warped_mean(tmp_path: Path) -> None:
    model = ColorModel()
    folder = open_pseudo(made(tmp_path, PseudoLabels(window=1), [model]))
    frames = [picture(index) for index in range(3)]
    items = [
        Labelled(f"{i:04d}", frame, p) for i, (frame, p) in enumerate(zip(frames, stream_distribution([model], None, frames), strict=True))
    ]
    for item in window_mean(iter(items), 1):
        assert np.array_equal(folder.labels("v0", item.stem), item.p.argmax(0).numpy())
    assert not np.array_equal(folder.labels("v0", "0001"), items[1].p.argmax(0).numpy())


def test_alignment_moves_the_mean_distribution_to_the_wanted_shares(tmp_path: Path) -> None:
    """With frames of one colour in all pixels the formula can be followed by hand: p_c f_c over their sum, f = wanted / mean."""
    folder = tmp_path / "in" / "v0"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((*SIZE, 3), (120, 100, 80), np.uint8)).save(folder / "0000.png")
    p = torch.tensor([120.0, 100, 80]).mul(0.03).softmax(0).numpy()
    wanted = np.array([0.2, 0.5, 0.3])
    pseudo_label([ColorModel()], open_inputs(tmp_path / "in"), tmp_path / "plain", PseudoLabels())
    pseudo_label([ColorModel()], open_inputs(tmp_path / "in"), tmp_path / "out", PseudoLabels(align=1), wanted=wanted)
    pseudo_label([ColorModel()], open_inputs(tmp_path / "in"), tmp_path / "half", PseudoLabels(align=0.5), wanted=wanted)
    plain, out, half = (open_pseudo(tmp_path / name) for name in ("plain", "out", "half"))
    assert [one.labels("v0", "0000").max() for one in (plain, out)] == [0, 1]
    for opened, q in ((out, wanted), (half, p * np.sqrt(wanted / p) / (p * np.sqrt(wanted / p)).sum())):
        code = int(code_of_entropy(float(-(q * np.log(q)).sum()), 3))
        assert abs(int(opened.codes("v0", "0000")[5, 5]) - code) <= 1
    assert out.made_from["factors"] == pytest.approx(wanted / p, rel=1e-4)
    assert "factors" not in plain.made_from


def test_alignment_is_found_once_and_again_for_other_videos(tmp_path: Path) -> None:
    wanted, settings, model = np.array([0.2, 0.5, 0.3]), PseudoLabels(align=1), ColorModel()
    inputs = open_inputs(clips(tmp_path / "in", frames=9))
    pseudo_label([model], inputs[:1], tmp_path / "out", settings, wanted=wanted)
    assert model.frames == 2 + 9  # frames 0 and 8, then all
    before = files(tmp_path / "out")
    assert pseudo_label([model], inputs[:1], tmp_path / "out", settings, wanted=wanted).predicted == ()
    assert model.frames == 11
    assert files(tmp_path / "out") == before
    assert pseudo_label([model], inputs, tmp_path / "out", settings, wanted=wanted).predicted == ("v0", "v1")


def test_alignment_asks_for_shares_and_finite_values(tmp_path: Path) -> None:
    inputs = open_inputs(clips(tmp_path / "in"))
    with pytest.raises(SemivssError, match="needs labelled frames"):
        pseudo_label([ColorModel()], inputs, tmp_path / "out", PseudoLabels(align=1))
    bad = ColorModel(poison=int(picture(10)[0, 0, 0]))
    with pytest.raises(SemivssError, match=r"^v1/0000: model 1 of 1 .*not finite"):
        pseudo_label([bad], inputs, tmp_path / "out", PseudoLabels(align=1), wanted=np.full(3, 1 / 3))


def test_a_restart_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Interrupted(ClipInput):
        def frames(self, on_defect: OnDefect) -> Frames:
            for number, item in enumerate(super().frames(on_defect)):
                if number == 2:
                    raise KeyboardInterrupt
                yield item

    first, second = open_inputs(clips(tmp_path / "in"))
    assert isinstance(second, ClipInput)
    settings, out = PseudoLabels(batch=1, top_classes=3), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        pseudo_label([ColorModel()], [first, Interrupted(second.clip)], out, settings)
    with pytest.raises(DataError, match="no finished pseudo labels"):
        open_pseudo(out)
    done = pseudo_label([ColorModel()], [first, second], out, settings)
    assert (done.predicted, done.skipped) == (("v1",), ("v0",))
    pseudo_label([ColorModel()], [first, second], tmp_path / "once", settings)
    assert files(out) == files(tmp_path / "once")


def test_labelling_with_other_models_leaves_no_manifest_of_the_old_ones(tmp_path: Path) -> None:
    out, inputs = made(tmp_path), open_inputs(tmp_path / "in")
    with pytest.raises(SemivssError, match="not finite"):
        pseudo_label([ColorModel(0.01, poison=int(picture(11)[0, 0, 0]))], inputs, out, PseudoLabels())
    with pytest.raises(DataError, match="no finished pseudo labels"):
        open_pseudo(out)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_nan_names_video_frame_and_model(tmp_path: Path, batch: int) -> None:
    inputs = open_inputs(clips(tmp_path / "in"))
    bad = ColorModel(poison=int(picture(12)[0, 0, 0]))
    with pytest.raises(SemivssError, match=rf"^v1/0002: model 2 of 2 \(SHA-256 {model_hash(bad)[:12]}\).*not finite") as caught:
        pseudo_label([ColorModel(), bad], inputs, tmp_path / "out", PseudoLabels(batch=batch))
    assert "\n" not in str(caught.value)


def test_infinite_votes_of_masks_are_found(tmp_path: Path) -> None:
    class Masks(ColorModel):
        def forward(self, frames: Tensor) -> MaskLogits:
            b, _, h, w = frames.shape
            masks = torch.zeros(b, 5, h // 4, w // 4)
            return MaskLogits(torch.full((b, 5, 4), float("inf")), masks, masks)

    with pytest.raises(SemivssError, match="v0/0000: model 1 of 1"):
        predict([Masks()], open_inputs(clips(tmp_path / "in")), tmp_path / "out", Predict(overlay="none"))


def test_labels_of_another_class_set_or_order_are_refused(tmp_path: Path) -> None:
    out = made(tmp_path)
    for names, says in (
        (("red", "blue", "green"), "same classes in another order: id 1 is 'green' there and 'blue'"),
        (("red", "green", "sky"), "another class set: id 2 is 'blue' there and 'sky'"),
        (("red", "green"), "they have 3 classes, other has 2"),
    ):
        other = LabelSet("other", names, ((0, 0, 0),) * len(names), (False,) * len(names))
        with pytest.raises(DataError, match=says):
            check_classes(out, open_pseudo(out).label_set.names, other)
    # A data set without masks may have any classes: its frames alone are looked for.
    open_pseudo(out).check(dataset(tmp_path / "in", LabelSet("other", ("green", "red", "blue"), CLASSES.colors, CLASSES.things)))


def test_an_incomplete_folder_names_the_first_frame_that_is_missing(tmp_path: Path) -> None:
    out = made(tmp_path)
    open_pseudo(out).check(dataset(tmp_path / "in"))
    Image.fromarray(picture(5)).save(tmp_path / "in" / "v1" / "0003.png")
    with pytest.raises(DataError, match=r"no pseudo label of v1/0003; label the whole of clips"):
        open_pseudo(out).check(dataset(tmp_path / "in"))
    with pytest.raises(DataError, match=r"v1/0003"):
        open_pseudo(out).check(dataset(tmp_path / "in"), "skip")  # nothing was left out when they were made
    (out / "entropy" / "v0" / "0002.png").unlink()
    with pytest.raises(DataError, match=r"entropy/v0/0002\.png: incomplete"):
        open_pseudo(out)


def test_frames_that_labelling_left_out_may_be_missing_under_skip(tmp_path: Path) -> None:
    root = clips(tmp_path / "in")
    (root / "v1" / "0001.png").write_bytes(b"")
    pseudo_label([ColorModel()], open_inputs(root), tmp_path / "out", PseudoLabels(), policy="skip")
    folder = open_pseudo(tmp_path / "out")
    folder.check(dataset(root), "skip")
    with pytest.raises(DataError, match="v1/0001"):
        folder.check(dataset(root), "strict")
    Image.fromarray(picture(5)).save(root / "v0" / "0099.png")
    with pytest.raises(DataError, match="v0/0099"):
        folder.check(dataset(root), "skip")  # v0 was read to its end


def test_a_video_that_ends_early_may_lack_many_frames_under_skip(tmp_path: Path) -> None:
    root = clips(tmp_path / "in")
    stems = sorted(path.stem for path in (root / "v1").iterdir())
    for stem in stems[1:]:
        (root / "v1" / f"{stem}.png").write_bytes(b"")
    pseudo_label([ColorModel()], open_inputs(root), tmp_path / "out", PseudoLabels(), policy="skip")
    folder = open_pseudo(tmp_path / "out")
    assert folder.stems["v1"] == {stems[0]}
    folder.check(dataset(root), "skip")


def test_predictions_are_no_pseudo_labels(tmp_path: Path) -> None:
    predict([ColorModel()], open_inputs(clips(tmp_path / "in")), tmp_path / "out", Predict(overlay="none"))
    with pytest.raises(DataError, match="predictions, no pseudo labels"):
        open_pseudo(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text('{"kind": "pseudo labels"}')
    with pytest.raises(DataError, match="not readable as a manifest"):
        open_pseudo(tmp_path / "out")


def test_an_edited_label_is_told_and_used_on_demand(tmp_path: Path) -> None:
    out = made(tmp_path)
    threshold = open_pseudo(out).thresholds(20.0)[0]
    labels = edit(out)
    edit(out, "v1/0000", 255)
    with pytest.raises(DataError, match=r"v0/0001\.png: edited by hand.*, and 1 more; use what is there with --accept-edited"):
        open_pseudo(out)
    folder = open_pseudo(out, accept_edited=True)
    assert folder.edited == ("v0/0001", "v1/0000")
    assert np.array_equal(folder.labels("v0", "0001"), labels)
    assert not folder.codes("v0", "0001").any()  # a person is certain
    assert folder.codes("v0", "0000").any()
    assert (folder.labels("v1", "0000") == 255).all()
    assert folder.thresholds(20.0)[0] == threshold


def test_a_changed_file_that_is_no_label_is_refused_and_made_anew(tmp_path: Path) -> None:
    out = made(tmp_path)
    before, path = files(out), out / "entropy" / "v0" / "0001.png"
    Image.fromarray(np.full(SIZE, 9, np.uint16)).save(path)
    for accept in (False, True):
        with pytest.raises(DataError, match=r"entropy/v0/0001.png: changed since it was written; labels alone"):
            open_pseudo(out, accept_edited=accept)
    path.unlink()
    assert pseudo_label([ColorModel()], open_inputs(tmp_path / "in"), out, PseudoLabels()).predicted == ("v0",)
    assert files(out) == before


def test_nothing_of_an_interrupted_making_is_left(tmp_path: Path) -> None:
    """Likely classes of other views, and no record that names them, as after a kill: they must not pass for those of the new labels."""
    out = made(tmp_path, PseudoLabels(top_classes=2))
    (out / "records" / "v0.jsonl").unlink()
    pseudo_label([ColorModel()], open_inputs(tmp_path / "in"), out, PseudoLabels(views=Views(flip=True)))
    assert open_pseudo(out).top_classes("v0", "0000") is None
    assert not list((out / "top_classes").rglob("*.npz"))


@pytest.mark.parametrize(("value", "size", "kind"), [(3, SIZE, "unknown_id"), (1, (12, 20), "size_mismatch")])
def test_an_edited_label_must_have_known_ids_and_the_frames_size(tmp_path: Path, value: int, size: tuple[int, int], kind: str) -> None:
    out = made(tmp_path)
    edit(out, "v0/0001", value, size)
    with pytest.raises(DefectError, match=r"v0/0001\.png") as caught:
        open_pseudo(out, accept_edited=True)
    assert caught.value.kind == kind


def test_labelling_again_keeps_corrections_and_never_writes_over_them(tmp_path: Path) -> None:
    out, inputs = made(tmp_path), open_inputs(tmp_path / "in")
    labels = edit(out)
    again = pseudo_label([ColorModel()], inputs, out, PseudoLabels())
    assert again.skipped == ("v0", "v1")
    assert open_pseudo(out, accept_edited=True).edited == ("v0/0001",)
    with pytest.raises(SemivssError, match=r"v0/0001\.png: corrected by hand, and v0 was made before with other models"):
        pseudo_label([ColorModel(0.01)], inputs, out, PseudoLabels())
    (out / "entropy" / "v0" / "0002.png").unlink()
    with pytest.raises(SemivssError, match="labelling it again would write over that"):
        pseudo_label([ColorModel()], inputs, out, PseudoLabels())
    assert np.array_equal(np.asarray(Image.open(out / "v0" / "0001.png")), labels)
    (out / "v0" / "0001.png").write_bytes(b"no picture any more")  # damaged is not corrected
    assert pseudo_label([ColorModel()], inputs, out, PseudoLabels()).predicted == ("v0",)
    assert open_pseudo(out).edited == ()


def test_damaged_files_of_the_folder_are_one_line(tmp_path: Path) -> None:
    out = made(tmp_path, PseudoLabels(top_classes=1))
    folder = open_pseudo(out)
    (out / "top_classes" / "v0" / "0000.npz").write_bytes(b"PK")
    with pytest.raises(DefectError, match=r"0000\.npz: not readable"):
        folder.top_classes("v0", "0000")
    shutil.copy(out / "v0" / "0000.png", out / "entropy" / "v0" / "0000.png")
    with pytest.raises(DefectError, match="not a 16-bit grey picture"):
        folder.codes("v0", "0000")
    other = made(tmp_path / "other")
    (other / "histogram.npz").write_bytes((other / "histograms" / "v0.npz").read_bytes())
    with pytest.raises(DataError, match=r"histogram\.npz: .*not the recorded one"):
        open_pseudo(other, accept_edited=True)


def test_the_reader_is_what_the_loader_needs(tmp_path: Path) -> None:
    folder = open_pseudo(made(tmp_path))
    assert isinstance(folder, PseudoFolder)
    assert folder.labels("v0", "0000").shape == folder.codes("v0", "0000").shape == SIZE
