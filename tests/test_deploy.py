"""The schedules in deploy/: each asks for the same command, at the same times, in its own words.

What can be checked without a running systemd, Kubernetes or Airflow; docs/operation.md says what
was not run.
"""

import configparser
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jinja2
import pytest
import yaml

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
SYSTEMD = DEPLOY / "systemd"
CHECKOUT = "/opt/frostrank"
CONFIG = "/etc/frostrank/config.toml"
PYTHON = f"{CHECKOUT}/.venv/bin/python"
STATE = "/var/lib/frostrank"
COMMAND = ["-m", "jobs.daily", "--config", CONFIG, "--day"]
# Every quarter of an hour.
TIMES = [(hour, minute) for hour in range(24) for minute in (0, 15, 30, 45)]

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here (Debian: systemd)"
)


def unit(name):
    """A unit's sections; no key that is read here occurs twice in one."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read_string((SYSTEMD / name).read_text())
    return parser


def cron_entry():
    """Time fields, user and command of the one line of the crontab that is no setting."""
    lines = (DEPLOY / "cron/frostrank").read_text().splitlines()
    (entry,) = (line for line in lines if line and not re.match(r"#|[A-Z]+=", line))
    *times, user, command = entry.split(maxsplit=6)
    return times, user, command


def cron_jobs():
    """The documents of cronjob.yaml by kind."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes/cronjob.yaml").read_text())
    return {document["kind"]: document for document in documents}


def pod():
    """The pod that the CronJob makes."""
    return cron_jobs()["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def times_of(fields):
    """Hours and minutes of cron's five fields, which must mean every day."""
    minutes, hours, *rest = fields
    assert rest == ["*", "*", "*"]
    return [(hour, minute) for hour in numbers(hours, 24) for minute in numbers(minutes, 60)]


def numbers(field, end):
    """What a cron field of the forms `*` and `*/N` stands for."""
    step = re.fullmatch(r"\*(?:/(\d+))?", field)
    assert step is not None, field
    return range(0, end, int(step.group(1) or 1))


def airflow_stub(monkeypatch):
    """Modules in Airflow's place whose classes keep what they are given; returns what was made."""
    made = []

    class Kept(SimpleNamespace):
        def __init__(self, *values, **named):
            super().__init__(values=values, **named)
            made.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_): ...

    names = {"airflow.sdk": ("DAG", "CronDataIntervalTimetable")}
    names["airflow.providers.standard.operators.bash"] = ("BashOperator",)
    for path, classes in names.items():
        module = ModuleType(path)
        for name in classes:
            setattr(module, name, type(name, (Kept,), {}))
        monkeypatch.setitem(sys.modules, path, module)
    return made


@pytest.fixture
def dag(monkeypatch):
    """What the DAG file makes: the timetable, the DAG, the task."""
    made = airflow_stub(monkeypatch)
    path = DEPLOY / "airflow/frostrank_daily.py"
    spec = importlib.util.spec_from_file_location("frostrank_daily", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert [type(thing).__name__ for thing in made] == [
        "CronDataIntervalTimetable",
        "DAG",
        "BashOperator",
    ]
    return made


def airflow_command(task, start):
    """The task's command for the interval that starts then, its template filled in."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters["ds"] = lambda day: day.strftime("%Y-%m-%d")
    return environment.from_string(task.bash_command).render(data_interval_start=start)


@pytest.fixture
def installed(tmp_path):
    """The units as they are installed, but for the place of the checkout."""
    python = tmp_path / "checkout/.venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    for path in SYSTEMD.iterdir():
        text = path.read_text().replace(CHECKOUT, str(tmp_path / "checkout"))
        (tmp_path / path.name).write_text(text)
    return sorted(tmp_path.glob("frostrank-daily.*"))


@needs_systemd
def test_systemd_takes_the_units(installed):
    assert [path.suffix for path in installed] == [".service", ".timer"]
    command = ["systemd-analyze", "verify", *map(str, installed)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    # A mistyped key is a warning only.
    assert (done.returncode, "frostrank" in done.stderr) == (0, False), done.stderr


@needs_systemd
def test_the_service_gives_little_away():
    """Exposure of at most 2.0 of 10, by systemd's own reckoning."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager"]
    unit_file = str(SYSTEMD / "frostrank-daily.service")
    subprocess.run([*command, unit_file], check=True, capture_output=True)


@needs_systemd
def test_the_timer_elapses_every_quarter_of_an_hour():
    """From midnight of UTC, when the newest complete day changes, on a machine of any zone."""
    calendar = unit("frostrank-daily.timer")["Timer"]["OnCalendar"]
    times = ["--base-time=2024-03-05 23:50:00 UTC", f"--iterations={len(TIMES) + 1}"]
    command = ["systemd-analyze", "calendar", calendar, *times]
    environment = {"TZ": "America/New_York", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found = re.findall(r"in UTC\): \w+ (\S+) (\d+):(\d+):00 UTC", done.stdout)
    elapses = [(day, int(hour), int(minute)) for day, hour, minute in found]
    assert elapses[:-1] == [("2024-03-06", *time) for time in TIMES]
    assert elapses[-1] == ("2024-03-07", 0, 0)


def test_cron_and_kubernetes_have_the_timers_times():
    spec = cron_jobs()["CronJob"]["spec"]
    assert times_of(cron_entry()[0]) == times_of(spec["schedule"].split()) == TIMES
    assert spec["timeZone"] == "Etc/UTC"


def test_every_schedule_runs_the_same_command(dag):
    service = unit("frostrank-daily.service")["Service"]
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}" == STATE
    assert shlex.split(service["ExecStart"]) == [PYTHON, *COMMAND, "yesterday"]

    _, user, command = cron_entry()
    assert user == service["User"]
    assert "%" not in command, "cron reads % as the end of the line"
    asked = shlex.join([PYTHON, *COMMAND, "yesterday"])
    assert command == f"cd {STATE} && {asked} 2>&1 | logger -t frostrank-daily"

    (container,) = pod()["containers"]
    assert container["command"] == ["python", *COMMAND, "yesterday"]

    task = dag[-1]
    rendered = airflow_command(task, datetime(2024, 3, 5, tzinfo=UTC))
    assert task.cwd == STATE
    assert shlex.split(rendered) == ["exec", PYTHON, *COMMAND, "2024-03-05"]


@pytest.mark.integration
@pytest.mark.parametrize("day", ["yesterday", "2024-03-05"])
def test_the_driver_takes_that_command(tmp_path, day):
    """It comes as far as the config, which is not there, with the exit code of wrong settings."""
    missing = str(tmp_path / "config.toml")
    arguments = [missing if part == CONFIG else part for part in [*COMMAND, day]]
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert f"ConfigError: {missing}: no such config file" in done.stderr
    assert done.returncode == 2


def test_what_a_person_must_look_at_is_not_tried_again():
    """2: settings, 3: rejected; 4, a late day, waits for the next time; 75 is another driver."""
    service = unit("frostrank-daily.service")["Service"]
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"].split() == ["2", "3"]
    assert service["SuccessExitStatus"].split() == ["4", "75"]
    policy = cron_jobs()["CronJob"]["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]
    (codes,) = (rule["onExitCodes"] for rule in policy["rules"] if rule["action"] == "FailJob")
    assert codes == {"containerName": "daily", "operator": "In", "values": [2, 3, 4]}


def test_restarts_are_limited_and_leave_the_timer_its_starts():
    starts = unit("frostrank-daily.service")["Unit"]
    assert starts["StartLimitIntervalSec"] == "1h"
    per_hour = len([hour for hour, _ in TIMES if hour == 0])
    assert per_hour < int(starts["StartLimitBurst"]) <= 2 * per_hour


def test_the_pod_has_what_its_policy_and_command_need():
    spec, job = cron_jobs()["CronJob"]["spec"], pod()
    (container,) = job["containers"]
    assert spec["concurrencyPolicy"] == "Forbid"
    # The API server takes a podFailurePolicy with no other restart policy.
    assert job["restartPolicy"] == "Never"
    assert container["name"] == "daily"
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in job["volumes"]}
    assert mounts.keys() == volumes.keys()
    assert mounts["config"] == str(Path(CONFIG).parent)
    claim = cron_jobs()["PersistentVolumeClaim"]["metadata"]["name"]
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == claim
    # The root is read-only; torchrun and matplotlib write to /tmp.
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert mounts["scratch"] == "/tmp"


def test_the_dag_is_one_task_a_day_retried_for_most_of_it(dag):
    timetable, graph, task = dag
    assert (timetable.values, timetable.timezone) == (("0 0 * * *",), "UTC")
    assert graph.schedule is timetable
    assert graph.start_date.tzinfo is UTC
    assert (graph.catchup, graph.max_active_runs) == (False, 1)
    assert task.retries * task.retry_delay == timedelta(hours=20)
    assert graph.dagrun_timeout > task.retries * task.retry_delay
