"""What the two commands take on a fresh clone: how it is measured, and what is stored."""

import json
import sys

import pytest
import setup_cost

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")


@LINUX
def test_memory_is_that_of_a_process_and_its_children_together(tmp_path):
    held = "held = b'x' * (200 * 2**20)"
    child = f"import time; {held}; time.sleep(2)"
    code = f"import subprocess, sys; {held}; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    minutes, peak = setup_cost.measured([sys.executable, "-c", code], tmp_path, every=0.1)
    assert 400 / 1024 < peak < 600 / 1024 and 2 / 60 < minutes < 2


@LINUX
def test_a_command_that_fails_is_no_measurement_and_a_process_that_ended_has_no_memory(tmp_path):
    with pytest.raises(SystemExit, match="ended with 3: nothing is written"):
        setup_cost.measured([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)
    assert setup_cost.resident(2**22) == 0 and setup_cost.family(2**22) == [2**22]


def test_disk_is_that_of_all_files_however_deep(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for place in ("one", "a/b/two"):
        (tmp_path / place).write_bytes(b"x" * 2**20)
    assert setup_cost.disk(tmp_path) == 2**21 / 2**30


def test_what_is_stored_is_what_the_command_writes_and_stays_below_the_limit():
    cost = json.loads(setup_cost.FILE.read_text(encoding="utf-8"))
    assert 0 < cost["install_minutes"] < cost["run_minutes"] and 0 < cost["test_minutes"] <= 35
    assert 0 < cost["memory_gib"] < 8 and 0 < cost["disk_gib"] < 10
