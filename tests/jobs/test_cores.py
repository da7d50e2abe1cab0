"""Cores by affinity and by control groups."""

import os
import subprocess
import sys

import pytest

from jobs.cores import num_cores


@pytest.fixture
def groups(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    (tmp_path / "groups/pods.slice/pod").mkdir(parents=True)
    (tmp_path / "own").write_text("0::/pods.slice/pod\n")
    return tmp_path / "groups"


def limit(folder, text):
    (folder / "cpu.max").write_text(text + "\n")


def cores(groups):
    return num_cores(groups.parent / "own", groups)


def test_without_a_limit_all_that_the_process_may_run_on(groups):
    assert cores(groups) == 16
    limit(groups / "pods.slice/pod", "max 100000")
    assert cores(groups) == 16


@pytest.mark.parametrize(("text", "expected"), [("400000 100000", 4), ("150000 100000", 2)])
def test_a_container_s_limit_counts(groups, text, expected):
    limit(groups / "pods.slice/pod", text)
    assert cores(groups) == expected


def test_the_least_of_the_groups_around_it_counts(groups):
    limit(groups / "pods.slice/pod", "800000 100000")
    limit(groups / "pods.slice", "300000 100000")
    assert cores(groups) == 3


def test_in_a_container_the_root_is_the_group(groups):
    (groups.parent / "own").write_text("0::/\n")
    limit(groups, "50000 100000")
    assert cores(groups) == 1


def test_without_control_groups_there_is_no_limit(groups):
    assert num_cores(groups.parent / "none", groups.parent / "nowhere") == 16


@pytest.mark.parametrize(("asked", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_do_not_spin_unless_asked_to(asked, expected):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "true"} | ({"OMP_WAIT_POLICY": asked} if asked else {})
    command = [sys.executable, "-c", "import jobs.distributed"]
    done = subprocess.run(command, check=True, env=environment, stderr=subprocess.PIPE, text=True)
    assert f"OMP_WAIT_POLICY = '{expected}'" in done.stderr
