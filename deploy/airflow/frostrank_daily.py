# ruff: noqa: INP001 (read by Airflow from its own folder, not a package)
"""The daily chain as an Airflow DAG: one task that runs the command that any scheduler runs.

Copy this file into Airflow's dags folder. It imports nothing of Frostrank, which has its own
environment in its own checkout. Written for Airflow 3 with the standard provider.
"""

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, CronDataIntervalTimetable

__all__ = ["dag"]

_PYTHON = "/opt/frostrank/.venv/bin/python"
_CONFIG = "/etc/frostrank/config.toml"

with DAG(
    dag_id="frostrank_daily",
    description="Prepare, test, train, gate and publish one day",
    # The timetable of intervals: with a bare cron text, Airflow 3's date is the day of the run.
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    # Older days are jobs.backfill's, which knows which of them are done.
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=24),
    tags=["frostrank"],
) as dag:
    BashOperator(
        task_id="daily",
        bash_command=(
            f"exec {_PYTHON} -m jobs.daily --config {_CONFIG}"
            " --day {{ data_interval_start | ds }}"
        ),
        # Where torchx and Slurm may leave files.
        cwd="/var/lib/frostrank",
        # For 20 hours. A try for a late day (4) or after a failure (1) goes on with it; one after
        # wrong settings (2) or a rejected day (3) says the same again within seconds.
        retries=80,
        retry_delay=timedelta(minutes=15),
    )
