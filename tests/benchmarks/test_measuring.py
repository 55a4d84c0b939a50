"""A benchmark that measures wrongly is worse than none: what its figures rest on is tested here."""

from __future__ import annotations

import sys
from pathlib import Path

import family
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measure import Command, CommandError, Sample, median, run, total
from results import LIMITS, Results
from safetensors import safe_open
from scenarios import MismatchError, check_same_files

MIB = 1 << 20


def _python(code: str) -> Command:
    return Command([sys.executable, "-c", code], {})


def test_a_sample_holds_the_costs_of_the_command_and_its_children() -> None:
    child = "from time import process_time as now; block = b'x' * (300 << 20)\nwhile now() < 0.4: pass"
    sample = run(_python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"))
    assert sample.peak_rss_bytes > 300 * MIB
    assert 0.4 <= sample.cpu_s <= sample.wall_s * 1.5


def test_a_command_that_fails_or_hangs_is_an_error_with_its_output() -> None:
    with pytest.raises(CommandError, match="no such bucket"):
        run(_python("import sys; print('no such bucket'); sys.exit(3)"))
    with pytest.raises(CommandError, match="stopped after 1 s"):
        run(_python("import time; time.sleep(30)"), timeout_s=1.0)


def test_commands_in_turn_add_up_but_their_memory_does_not() -> None:
    samples = [Sample(1.0, 0.5, 10), Sample(3.0, 0.7, 30), Sample(2.0, 9.0, 20)]
    assert total(samples) == Sample(6.0, pytest.approx(10.2), 30)
    assert median(samples) == Sample(2.0, 0.7, 30)


def test_a_limit_divides_ours_by_the_peers_of_the_same_group() -> None:
    results = Results()
    for tool, wall_s in (("skyhold", 1.2), ("rclone", 1.0)):
        results.add("pull", "pull base", tool, Sample(wall_s, 1.0, 90 * MIB))
    ratios = {limit.text: limit.ratio(results) for limit in LIMITS}
    assert ratios.pop("Verified pull, version stored whole") == pytest.approx(1.2)
    assert ratios.pop("Peak memory of the largest process") == pytest.approx(90)
    assert set(ratios.values()) == {None}


def test_a_flipped_or_missing_byte_after_a_pull_is_found(tmp_path: Path) -> None:
    for name in ("pushed", "pulled"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "weights").write_bytes(b"abc")
    check_same_files(tmp_path / "pushed", tmp_path / "pulled")
    (tmp_path / "pulled" / "sub" / "weights").write_bytes(b"abd")
    with pytest.raises(MismatchError, match="weights"):
        check_same_files(tmp_path / "pushed", tmp_path / "pulled")
    (tmp_path / "pulled" / "sub" / "weights").unlink()
    with pytest.raises(MismatchError, match="weights"):
        check_same_files(tmp_path / "pushed", tmp_path / "pulled")


@given(
    st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100),
        min_size=1,
    )
)
def test_bf16_rounds_as_ml_dtypes_does(values: list[float]) -> None:
    array = np.array(values, np.float32)
    assert family.to_bf16(array).tolist() == array.astype(ml_dtypes.bfloat16).view(np.uint16).tolist()


def test_a_file_is_read_back_by_the_safetensors_library(tmp_path: Path) -> None:
    shapes = {"b": (3, 2), "a": (5,)}
    tensors = [family.to_bf16(np.arange(6, dtype=np.float32).reshape(3, 2)), family.to_bf16(np.ones(5, np.float32))]
    family.write_safetensors(tmp_path / "m.safetensors", shapes, tensors)
    with safe_open(tmp_path / "m.safetensors", "np") as file:
        assert file.get_tensor("b").astype(np.float32).tolist() == [[0, 1], [2, 3], [4, 5]]
        assert file.get_slice("a").get_shape() == [5]


def test_versions_of_the_family_differ_only_where_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HIDDEN": 16, "FEED_FORWARD": 24, "LAYERS": 2, "VOCABULARY": 40, "ADDED_TOKENS": 3}.items():
        monkeypatch.setattr(family, name, value)

    def tensors(version: str) -> dict[str, np.ndarray]:
        shapes = family.version_shapes(version)
        return dict(zip(shapes, family.version_tensors(version, shapes), strict=True))

    base = tensors("base")
    changed = {
        version: {name for name, array in tensors(version).items() if not np.array_equal(array, base[name])}
        for version in family.VERSIONS
    }
    matrices = {name for name, array in base.items() if array.ndim == 2}
    assert changed.pop("finetune") >= matrices
    assert changed == {
        "base": set(),
        "head": {family.HEAD},
        "vocabulary": {family.HEAD, family.EMBEDDING},
        "reordered": set(),
        "lora": set(),
    }
    assert list(tensors("reordered")) != list(base)
    assert np.array_equal(tensors("vocabulary")[family.HEAD][:40], base[family.HEAD])
