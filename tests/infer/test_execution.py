"""How models run: the precision that auto becomes, threads, room for biases, compilation and its refusal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.models.test_segmenter import LABELS, SMALL, frames, parts

from semivss.defaults import defaults
from semivss.errors import SemivssError
from semivss.infer import compiled, precision
from semivss.infer.compiled import compile_model, demand_compiler
from semivss.infer.execution import open_models
from semivss.infer.manifest import made_from
from semivss.infer.on_demand import ModelOnDemand
from semivss.infer.precision import with_precision
from semivss.models.bias_memory import LIMIT, biases_of
from semivss.models.segmenter import Segmenter
from semivss.models.zoo import build_segmenter
from semivss.settings import Model, Predict, PseudoLabels


def model(backbone: str = "beit_tiny", **changes: object) -> Segmenter:
    torch.manual_seed(0)
    return build_segmenter(Model(backbone=backbone, **changes), LABELS).eval()


@pytest.mark.parametrize(("device", "amx", "expected"), [("cpu", True, "bf16"), ("cpu", False, "32"), ("mps", True, "32")])
def test_auto_is_bf16_where_that_is_fast(monkeypatch, device, amx, expected):
    monkeypatch.setattr(precision, "choose_accelerator", lambda: device)
    monkeypatch.setattr(precision, "has_amx", lambda: amx)
    for settings in (Predict(), PseudoLabels()):
        assert settings.precision == "auto"
        assert with_precision(settings).precision == expected
    assert with_precision(Predict(precision="32")).precision == "32"
    assert with_precision(Predict(precision="bf16")).precision == "bf16"


def test_a_gpu_decides_by_what_it_says(monkeypatch):
    monkeypatch.setattr(precision, "choose_accelerator", lambda: "cuda")
    for says, expected in ((True, "bf16"), (False, "32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, says=says: says)
        assert with_precision(Predict()).precision == expected


def test_folders_of_versions_before_count_as_float32_and_settings_of_speed_as_nothing():
    assert defaults(Predict())["precision"] == "32"
    first = Predict(precision="32")
    second = first.model_copy(update={"threads": 3, "bias_cache": 0.0, "compile": True, "batch": 1, "memory": 1 << 32})
    assert made_from([model("tiny")], [1.0], first) == made_from([model("tiny")], [1.0], second)
    assert made_from([model("tiny")], [1.0], first)["precision"] == "32"


def test_models_are_given_the_room_for_biases_that_settings_allow(tmp_path):
    path = tmp_path / "model"
    model().save_pretrained(path)
    (own,) = open_models([path], Predict(bias_cache=0.25))
    assert [memory.limit for memory in biases_of(own)] == [LIMIT // 4]
    waiting, _ = open_models([path, path], Predict(memory=1 << 32))
    assert isinstance(waiting, ModelOnDemand)
    with waiting.lent() as lent:
        assert [memory.limit for memory in biases_of(lent)] == [0]


def test_compiling_is_refused_at_once_without_a_compiler(tmp_path):
    """In a process of its own, whose PATH holds nothing; the model's folder is empty, so nothing can have been read."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "video").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "CXX"} | {"PATH": str(tmp_path)}
    words = ["predict", str(tmp_path / "model"), str(tmp_path / "video"), "--out", str(tmp_path / "out"), "--compile"]
    done = subprocess.run([sys.executable, "-m", "semivss", *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--compile: needs the C++ compiler" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_compiler_named_in_cxx_is_looked_for(tmp_path, monkeypatch):
    own = tmp_path / "own++"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "own++")
    demand_compiler()


def test_compiled_code_is_kept_under_the_users_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert compiled.cache_folder() == Path("/somewhere/semivss/compiled")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert compiled.cache_folder() == Path.home() / ".cache" / "semivss" / "compiled"


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "head"), [("beit_tiny", "pixel"), ("tiny", "mask2former")])
def test_a_compiled_model_says_the_same_and_keeps_its_names(backbone, head, tmp_path, monkeypatch, capsys):
    try:
        demand_compiler()
    except SemivssError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(compiled, "_GIVEN", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # which compiling sets
    own = model(backbone, head=head, mask2former=SMALL)
    names, images = list(own.state_dict()), frames(45, 70)
    with torch.inference_mode():
        plain = own(images)
        compile_model(own)
        fast = own(images)
    assert list(own.state_dict()) == names
    said = capsys.readouterr()
    assert f"minutes at the first window of each size, seconds once {tmp_path / 'cache'} knows it" in said.out + said.err
    assert any((tmp_path / "cache").rglob("*.cpp"))
    for first, second in zip(parts(plain), parts(fast), strict=True):
        torch.testing.assert_close(first, second, atol=1e-3, rtol=1e-3)
