"""Programs kept on disk: found again, the same to the bit, and bounded."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from jsplit.runtime import compilation_cache
from tests.runs import TINY, experiment_of, files_under, result_of, run_here

SETTINGS = (
    "jax_enable_compilation_cache",
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_logging_level",
)


def settings() -> dict[str, object]:
    return {name: getattr(jax.config, name) for name in SETTINGS}


@pytest.fixture(autouse=True)
def everything_is_worth_keeping(monkeypatch):
    monkeypatch.setattr(compilation_cache, "SECONDS", 0)


@pytest.fixture
def said():
    return []


@pytest.fixture
def hits():
    """Names what JAX took from a folder instead of compiling it."""
    found = []

    def listen(event, **_):
        if event == "/jax/compilation_cache/cache_hits":
            found.append(event)

    jax.monitoring.register_event_listener(listen)
    yield found
    jax.monitoring.unregister_event_listener(listen)


def compute(number: float) -> float:
    """Compiles a program of its own for each number."""
    return float(jax.jit(lambda x: x + number)(np.float32(1)))


def programs(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*-cache"))


@pytest.mark.slow
def test_the_next_run_finds_the_programs_and_ends_bit_for_bit_the_same(hits, tmp_path):
    flags = (*TINY, "--epochs", 4, "--compile-cache", tmp_path / "kept")
    results, taken = [], []
    for name in ("cold", "warm"):
        path = tmp_path / name
        before = len(hits)
        assert run_here(*flags, "--workdir", path) == 0
        taken.append(len(hits) - before)
        results.append(result_of(path, experiment_of(path)))
        if name == "cold":
            cold = programs(tmp_path / "kept")
    assert any(program.name.startswith("jit_run-") for program in cold)
    assert programs(tmp_path / "kept") == cold
    assert taken[1] > 0
    assert results[0] == results[1]


def test_what_is_kept_is_found_again_and_jax_is_left_as_it_was(hits, said, tmp_path):
    before = settings()
    for expected in (0, 1):
        with compilation_cache.kept(str(tmp_path / "xla"), said.append):
            assert compute(2) == 3
        assert len(hits) == expected and settings() == before
    assert len(programs(tmp_path / "xla")) == 1 and not said
    compute(3)
    assert len(programs(tmp_path / "xla")) == 1
    assert (tmp_path / "xla" / "jsplit").stat().st_mode & 0o777 == 0o700


def test_off_keeps_nothing_even_where_jax_was_given_a_folder(said, tmp_path):
    with compilation_cache.kept(str(tmp_path), said.append):
        with compilation_cache.kept(compilation_cache.OFF, said.append):
            compute(4)
    assert not programs(tmp_path) and not said


def test_a_folder_that_jax_was_given_is_used_as_it_was_set_up(said, tmp_path):
    with compilation_cache.kept(str(tmp_path), said.append):
        before = settings()
        with compilation_cache.kept(None, said.append):
            assert settings() == before
    assert not said


@pytest.mark.parametrize(
    ("variable", "expected"), [("/c", "/c/jsplit/xla"), ("", "~/.cache/jsplit/xla")]
)
def test_the_usual_folder_is_the_users_cache(monkeypatch, variable, expected):
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    assert compilation_cache.default() == Path(expected).expanduser()


def test_a_folder_that_cannot_be_made_is_said_in_a_line_and_nothing_is_kept(
    said, tmp_path
):
    (tmp_path / "file").write_text("mine")
    with compilation_cache.kept(str(tmp_path / "file" / "xla"), said.append):
        assert compute(5) == 6
    assert len(said) == 1
    assert "not kept" in said[0] and "Not a directory; name another" in said[0]
    assert files_under(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_written_is_said_in_a_line(monkeypatch, said, tmp_path):
    # Root may write anywhere, so the system's answer is made up.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with compilation_cache.kept(str(tmp_path), said.append):
        assert compute(6) == 7
    assert len(said) == 1 and "Permission denied" in said[0]
    assert programs(tmp_path) == []


def test_the_folder_is_bounded_and_what_was_used_last_stays(
    hits, monkeypatch, said, tmp_path
):
    with compilation_cache.kept(str(tmp_path), said.append):
        compute(10)
    # Three programs fit: they differ by a few bytes.
    limit = programs(tmp_path)[0].stat().st_size * 7 // 2
    monkeypatch.setattr(compilation_cache, "LIMIT", limit)
    for number in (11, 12, 10, 13, 14):
        with compilation_cache.kept(str(tmp_path), said.append):
            compute(number)
        assert sum(path.stat().st_size for path in programs(tmp_path)) <= limit
    assert len(hits) == 1 and len(programs(tmp_path)) == 3
    with compilation_cache.kept(str(tmp_path), said.append):
        compute(10)
    assert len(hits) == 2


def test_a_half_written_program_is_removed_and_compiled_anew(hits, said, tmp_path):
    with compilation_cache.kept(str(tmp_path), said.append):
        compute(20)
    (program,) = programs(tmp_path)
    whole = program.read_bytes()
    program.write_bytes(whole[: len(whole) // 2])
    program.with_name(program.name.removesuffix("-cache") + "-atime").unlink()
    with compilation_cache.kept(str(tmp_path), said.append):
        assert compute(20) == 21
    assert not hits
    with compilation_cache.kept(str(tmp_path), said.append):
        assert compute(20) == 21
    assert len(hits) == 1 and not said
