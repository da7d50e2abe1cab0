# ruff: noqa: INP001 (read by build.py, not a package)
"""The first row of the dashboard: the days, their stages, their models."""

from panels import CHOSEN, Panel, Query, last, of

__all__ = ["OVERVIEW"]

STATES = {
    1: ("running", "blue"),
    2: ("succeeded", "green"),
    3: ("failed", "red"),
    4: ("rejected", "orange"),
}
PASSED = {0: ("no", "red"), 1: ("yes", "green")}

OVERVIEW = (
    Panel(
        title="Day that serves",
        text="Day D is due by 8:00 UTC of D + 1. A rollback sets it back.",
        queries=(Query("frostrank:serving_day_timestamp_seconds:max * 1000", "day"),),
        unit="dateTimeAsIso",
        kind="stat",
        width=6,
    ),
    Panel(
        title="Time since that day began",
        text="Over 56 h it is late.",
        queries=(Query("frostrank:serving_day_age_seconds", "age"),),
        unit="s",
        kind="stat",
        width=6,
        limit=56 * 3600,
    ),
    Panel(
        title="Alerts that fire",
        text="docs/monitoring.md says what to do about each.",
        queries=(
            Query(
                'count(ALERTS{alertname=~"Frostrank.+", alertstate="firing"}) or vector(0)',
                "alerts",
            ),
        ),
        kind="stat",
        width=6,
        limit=1,
    ),
    Panel(
        title="Time since a stage last succeeded",
        text="",
        queries=(Query(f"time() - {last('last_success_timestamp_seconds')}"),),
        unit="s",
        kind="bargauge",
        width=6,
    ),
    Panel(
        title="Stages",
        text="State of the newest run of each stage and task.",
        queries=(Query(last("run_state")),),
        kind="state-timeline",
        width=12,
        states=STATES,
    ),
    Panel(
        title="Gates",
        text="Whether the newest candidate passed; one metric a gate.",
        queries=(
            Query(
                "min by (task, gate) (label_replace("
                f'{{__name__=~"frostrank_gate_.+_passed", {CHOSEN}}}, '
                '"gate", "$1", "__name__", "frostrank_gate_(.+)_passed"))',
                "{{task}} {{gate}}",
            ),
        ),
        kind="state-timeline",
        width=12,
        states=PASSED,
    ),
    Panel(
        title="AUC of what served on days now final",
        text="Of the published rankers, and their mean of seven days.",
        queries=(
            Query(f"task:frostrank_test_auc:max{{{CHOSEN}}}", "{{task}}"),
            Query(f"task:frostrank_test_auc:avg7d{{{CHOSEN}}}", "{{task}} 7 days"),
        ),
    ),
    Panel(
        title="Log loss of what served on days now final",
        text="In nats; below it the same over the entropy of the labels, where 1 is no better than "
        "their mean.",
        queries=(
            Query(last("log_loss", of("test")), "{{task}}"),
            Query(last("normalized_entropy", of("test")), "{{task}} normalized"),
        ),
    ),
    Panel(
        title="Calibration of what served on days now final",
        text="Predicted positives for each true one.",
        queries=(Query(last("calibration_ratio", of("test")), "{{task}}"),),
    ),
    Panel(
        title="AUC on new items",
        text="Of candidates whose item was not in the vocabulary judging.new_item_days (7) before.",
        queries=(Query(last("new_item_auc", of("test")), "{{task}}"),),
    ),
    Panel(
        title="Candidate against published: AUC",
        text="On the same requests of held-out users.",
        queries=(
            Query(last("auc", of("gate")), "{{task}} candidate"),
            Query(last("published_auc", of("gate")), "{{task}} published"),
        ),
    ),
    Panel(
        title="Candidate against published: log loss, calibration",
        text="On the same requests of held-out users.",
        queries=(
            Query(
                f"{last('log_loss', of('gate'))} - {last('published_log_loss', of('gate'))}",
                "{{task}} log loss, change",
            ),
            Query(last("calibration_ratio", of("gate")), "{{task}} calibration, candidate"),
            Query(
                last("published_calibration_ratio", of("gate")), "{{task}} calibration, published"
            ),
        ),
    ),
    Panel(
        title="Duration of stages",
        text="Of the newest runs that ended.",
        queries=(Query(last("run_duration_seconds")),),
        unit="s",
    ),
    Panel(
        title="Attempts",
        text="That the newest day took.",
        queries=(Query(last("run_attempts")),),
    ),
    Panel(
        title="Day of each stage",
        text="The newest run's, and the newest run's that succeeded.",
        queries=(
            Query(f"{last('run_day_timestamp_seconds')} * 1000", "{{stage}} {{task}} newest"),
            Query(f"{last('data_day_timestamp_seconds')} * 1000", "{{stage}} {{task}} succeeded"),
        ),
        unit="dateTimeAsIso",
    ),
    Panel(
        title="Last start and end of each stage",
        text="",
        queries=(
            Query(f"{last('run_start_timestamp_seconds')} * 1000", "{{stage}} {{task}} start"),
            Query(f"{last('run_end_timestamp_seconds')} * 1000", "{{stage}} {{task}} end"),
        ),
        unit="dateTimeAsIso",
        kind="bargauge",
        width=24,
    ),
)
