"""How much of the memory is used, as both versions of control groups and the operator's limit say."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.admission.memory import memory_limit_bytes, memory_share

MIB = 1 << 20


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")
    return folder


def test_what_the_kernel_would_give_up_is_not_used(tmp_path: Path) -> None:
    statistics = f"anon {MIB}\ninactive_file {20 * MIB}\nactive_file 5"
    write(tmp_path, memory__max=100 * MIB, memory__current=80 * MIB, memory__stat=statistics)
    assert memory_share(groups=tmp_path)() == pytest.approx(0.6)


def test_the_first_version_of_control_groups_is_read_too(tmp_path: Path) -> None:
    files = {"memory__limit_in_bytes": 100 * MIB, "memory__usage_in_bytes": 80 * MIB}
    write(tmp_path / "memory", **files, memory__stat=f"total_inactive_file {30 * MIB}")
    assert memory_share(groups=tmp_path)() == pytest.approx(0.5)


def test_it_is_read_anew_each_time(tmp_path: Path) -> None:
    write(tmp_path, memory__max=100 * MIB, memory__current=10 * MIB, memory__stat="")
    share = memory_share(groups=tmp_path)
    assert share() == pytest.approx(0.1)
    write(tmp_path, memory__current=90 * MIB)
    assert share() == pytest.approx(0.9)


@pytest.mark.parametrize("limit", ["max", 9223372036854771712])
def test_without_a_limit_nothing_is_ever_full(tmp_path: Path, limit: object) -> None:
    write(tmp_path, memory__max="max", memory__current=80 * MIB)
    write(tmp_path / "memory", memory__limit_in_bytes=limit, memory__usage_in_bytes=80 * MIB)
    assert memory_share(groups=tmp_path)() == 0
    assert memory_share(groups=tmp_path / "nowhere")() == 0


def test_the_tighter_limit_is_told(tmp_path: Path) -> None:
    assert memory_limit_bytes(groups=tmp_path) is None
    assert memory_limit_bytes(64, groups=tmp_path) == 64 * MIB
    write(tmp_path, memory__max=100 * MIB)
    assert [memory_limit_bytes(mib, groups=tmp_path) for mib in (None, 64, 200)] == [100 * MIB, 64 * MIB, 100 * MIB]
    told = [memory_limit_bytes(mib, groups=tmp_path, processes=4) for mib in (None, 20, 64)]
    assert told == [25 * MIB, 20 * MIB, 25 * MIB], "the group's is for all of them"


def test_the_operators_own_limit_is_for_this_process(tmp_path: Path) -> None:
    share = memory_share(1 << 20, groups=tmp_path)()
    assert 0 < share < 0.01, "of a tebibyte"
    write(tmp_path, memory__max=100 * MIB, memory__current=80 * MIB)
    assert memory_share(1 << 20, groups=tmp_path)() == pytest.approx(0.8), "the tighter of the two"
