"""A limit on memory: what is chosen under it, what is refused, models that take turns, and what a process really takes."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semivss.data.labels import LabelSet, distinct_colors
from semivss.errors import SemivssError
from semivss.infer import memory
from semivss.infer.manifest import model_hash
from semivss.infer.memory import MemoryLimit, limit_of, resident
from semivss.infer.on_demand import ModelOnDemand
from semivss.infer.score_map import FusedScores, ScoreMap
from semivss.infer.stream import Fit, NotFiniteError, stream_scores
from semivss.infer.views import View
from semivss.models.segmenter import Segmenter
from semivss.models.zoo import build_segmenter
from semivss.recipe import checked
from semivss.settings import Model, Predict
from semivss.tensors import PixelLogits

SIZE = (48, 64)
LABELS = LabelSet("five", tuple("abcde"), distinct_colors(5), (False,) * 5)
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")


def segmenter(seed: int) -> Segmenter:
    torch.manual_seed(seed)
    return build_segmenter(Model(backbone="tiny", head="pixel"), LABELS).eval()


def frame(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "first", tmp_path / "second"]
    for seed, path in enumerate(paths):
        segmenter(seed).save_pretrained(path)
    return paths


def test_a_model_on_demand_is_read_when_it_is_needed_and_let_go(folders: list[Path]) -> None:
    model, plain = ModelOnDemand(folders[0]), Segmenter.from_pretrained(folders[0])
    assert (model.label_set, model.rule, list(model.parameters())) == (plain.label_set, plain.rule, [])
    assert model_hash(model) == model_hash(plain)
    assert not list(model.parameters())  # the hash needed the weights, and let them go
    frames = torch.from_numpy(frame(0)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        torch.testing.assert_close(model(frames).logits.cpu(), plain(frames).logits)
    assert list(model.parameters())
    with model.lent():
        pass
    assert list(model.parameters())
    model.release()
    assert not list(model.parameters())


def test_models_that_take_turns_give_what_models_together_give(folders: list[Path], tmp_path: Path) -> None:
    views, frames = (View(), View(1.5, flip=True)), [frame(seed) for seed in range(5)] + [frame(9, (40, 40))]
    together = stream_scores([Segmenter.from_pretrained(path) for path in folders], [2.0, 1.0], frames, views)
    in_memory: list[int] = []

    class Watched(ModelOnDemand):
        def load(self) -> Segmenter:
            loaded = super().load()
            in_memory.append(sum(bool(list(model.parameters())) for model in models))
            return loaded

    models = [Watched(path) for path in folders]
    (spill := tmp_path / "spill").mkdir()
    asked: list[tuple[int, int]] = []

    def fit(size: tuple[int, int]) -> Fit:
        asked.append(size)
        return Fit(2, torch.float32, together=False, spilled=3)

    turns = stream_scores(models, [2.0, 1.0], frames, views, fit=fit, spill=spill)
    for one, other in zip(together, turns, strict=True):
        torch.testing.assert_close(other.whole(), one.whole().cpu(), atol=2e-3, rtol=0)
        assert not list(spill.iterdir())  # files without a name
    assert asked == [SIZE, SIZE, (40, 40)]  # 3 frames, 2 of the same size, and one of another
    assert max(in_memory) == 1


def test_the_frame_of_a_value_that_is_not_finite_is_known_when_models_take_turns() -> None:
    class Breaking(torch.nn.Module):
        label_set, rule, seen = LABELS, "spread", 0

        def forward(self, frames: torch.Tensor) -> PixelLogits:
            self.seen += 1
            logits = torch.zeros(len(frames), 5, 12, 16)
            return PixelLogits(logits / (0 if self.seen == 3 else 1), logits[:, :1])

    with pytest.raises(NotFiniteError) as failed:
        list(stream_scores([Breaking().eval()], None, [frame(0)] * 4, fit=lambda size: Fit(1, together=False, spilled=4)))
    assert (failed.value.model, failed.value.frame) == (0, 2)


def test_a_spilled_map_is_the_map_in_half_precision() -> None:
    maps = [ScoreMap(SIZE, 5, torch.device("cpu")) for _ in range(2)]
    logits = torch.randn(1, 5, 12, 16)
    for votes in maps:
        votes.add(PixelLogits(logits, logits), View(), View().windows(SIZE)[0], 1.0)
    maps[1].spill(None)
    plain, spilled = (FusedScores(((1.0, "spread", votes),)).whole() for votes in maps)
    torch.testing.assert_close(spilled, plain, atol=1e-3, rtol=0)


def test_less_memory_takes_fewer_windows_at_a_time_then_half_precision_then_turns(
    monkeypatch: pytest.MonkeyPatch, folders: list[Path]
) -> None:
    models = [ModelOnDemand(path) for path in folders]
    size, views = (480, 640), (View(), View(2.0, flip=True))  # as many windows as make a full sum smaller than their maps
    before = resident()
    monkeypatch.setattr(memory, "resident", lambda: before)
    monkeypatch.setattr(memory, "SPILLED", 2)
    needs = {
        (batch, dtype, together): MemoryLimit(1, models, views, "32")._needed(size, batch, dtype, together)
        for batch in (1, 2, 4)
        for dtype in (torch.float32, torch.float16)
        for together in (True, False)
    }
    for wanted in ((4, torch.float32, True), (2, torch.float32, True), (1, torch.float32, True), (1, torch.float16, True)):
        fit = MemoryLimit(needs[wanted], models, views, "32").fit(size, 4)
        assert (fit.batch, fit.dtype, fit.together) == wanted
    fit = MemoryLimit(needs[1, torch.float16, True] - 1, models, views, "32").fit(size, 4)
    assert not fit.together
    assert fit.spilled == 2
    limit = MemoryLimit(1 << 40, models, views, "32", window=2)
    assert limit._needed(size, 1, torch.float32, True) - needs[1, torch.float32, True] == 7 * 4 * 5 * math.prod(size)
    least = min(needs.values())
    with pytest.raises(SemivssError, match=r"is too little for frames of 480x640: .* are needed at least.*views\.crop"):
        MemoryLimit(least - 1, models, views, "32").fit(size, 4)


def test_scores_that_wait_are_those_of_a_batch(folders: list[Path]) -> None:
    model = ModelOnDemand(folders[0])
    size, windows = (48, 96), View(crop=(48, 48), stride=(48, 48))  # two windows, so that a batch of four is of two frames
    limit = MemoryLimit(1 << 40, [model], [windows], "32")
    table = 4 * 5 * 12 * 12
    activations = limit._count_activations((48, 48), 4) - limit._count_activations((48, 48), 1)
    answers = 2 * math.prod(size) * (3 + 7)  # of one frame more, twice
    maps = 2 * 2 * table  # two frames more, each as its two windows
    more = limit._needed(size, 4, torch.float32, True) - limit._needed(size, 1, torch.float32, True)
    assert more == activations + 2 * 3 * table + maps + answers


def test_the_limit_is_a_text_or_a_number() -> None:
    for text, count in (("4GB", 4_000_000_000), ("1.5 GiB", 1_610_612_736), ("500m", 500_000_000), (7, 7)):
        assert checked(Predict, "predict", memory=text).memory == count
    for wrong in ("4 apples", "GB", "-1GB", 0):
        with pytest.raises(SemivssError, match="memory"):
            checked(Predict, "predict", memory=wrong)
    assert limit_of([segmenter(0)], Predict()) is None


RUN = """
import sys
from pathlib import Path
from semivss.cli import main
from semivss.infer.memory import peak, resident
import semivss.infer.predict, semivss.infer.execution  # what stays in memory whatever is done
before = resident()
try:
    main()
finally:
    Path(sys.argv[0]).with_name("taken").write_text(f"{before} {peak()}")
"""


def test_a_process_takes_no_more_than_it_may(folders: list[Path], tmp_path: Path) -> None:
    (inside := tmp_path / "in" / "clip").mkdir(parents=True)
    for index in range(2):
        Image.fromarray(frame(index, (720, 960))).save(inside / f"{index:04d}.png")
    (run := tmp_path / "run.py").write_text(RUN)

    def predict(limit: float, out: str) -> tuple[int, str, int, int]:
        """Exit code, what was said, and the bytes that the process held before and at the most.

        By the process itself: what wait4 tells holds the bytes of the process that made it, as they were before exec.
        """
        words = [str(folders[0]), str(inside), "--out", str(tmp_path / out), "--overlay", "none", "--scales", "1,1.5", "--flip"]
        command = [sys.executable, str(run), "predict", *words, "--memory", f"{limit:.0f}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr, *map(int, (tmp_path / "taken").read_text().split())

    code, said, *_ = predict(1e7, "a")
    assert code == 2
    least = re.search(r"([0-9,]+) MB are needed at least", said)[1]
    assert not (tmp_path / "a" / "clip").exists()
    limit = 1e6 * int(least.replace(",", ""))
    code, said, before, taken = predict(limit, "b")
    assert code == 0, said
    assert limit - before > 0.4e9  # what is counted weighs more than what is not
    assert taken - before <= 1.1 * (limit - before)
    assert re.search(r"memory: [0-9,]+ MB at the most", said)
