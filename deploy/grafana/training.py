# ruff: noqa: INP001 (read by build.py, not a package)
"""The second row of the dashboard: what trains now, from its own endpoint."""

from panels import BY, CHOSEN, Panel, Query, last, quantile, rate, training

__all__ = ["TRAINING"]

TRAINING = (
    Panel(
        title="Done",
        text="Share of the steps of what trains now.",
        queries=training("done_ratio"),
        unit="percentunit",
        kind="bargauge",
        width=6,
    ),
    Panel(
        title="Time since the last step",
        text="As of the newest figures.",
        queries=(Query(f"time() - {training('last_step_timestamp_seconds')[0].expr}"),),
        unit="s",
        kind="stat",
        width=6,
    ),
    Panel(
        title="Ranks",
        text="Processes that train together.",
        queries=training("ranks"),
        kind="stat",
        width=6,
    ),
    Panel(
        title="Steps and samples trained on",
        text="Of the newest run that ended.",
        queries=(
            Query(last("run_steps"), "{{stage}} {{task}} steps"),
            Query(last("run_samples"), "{{stage}} {{task}} samples"),
            Query(
                f"{last('run_samples')} / {last('run_training_seconds')}",
                "{{stage}} {{task}} samples/s",
            ),
        ),
        kind="stat",
        width=6,
    ),
    Panel(
        title="Samples per second",
        text="Over all ranks.",
        queries=(Query(rate("samples_total")),),
        unit="cps",
    ),
    Panel(
        title="Tokens per second",
        text="Events of histories, and candidates.",
        queries=(Query(rate("tokens_total")),),
        unit="cps",
    ),
    Panel(
        title="Steps per second",
        text="",
        queries=(Query(rate("steps_total")),),
        unit="cps",
    ),
    Panel(
        title="Time of a step",
        text="From asking for a batch to the end of its step, over all ranks.",
        queries=(
            Query(quantile(0.5), "{{stage}} {{task}} median"),
            Query(quantile(0.95), "{{stage}} {{task}} 95%"),
            Query(
                f"{rate('step_seconds_sum')} / {rate('step_seconds_count')}",
                "{{stage}} {{task}} mean",
            ),
        ),
        unit="s",
    ),
    Panel(
        title="Waiting for batches",
        text="Share of the steps' time; reading holds training up where it is large.",
        queries=(Query(f"{rate('reader_wait_seconds_total')} / {rate('step_seconds_sum')}"),),
        unit="percentunit",
        limit=0.3,
    ),
    Panel(
        title="Waiting for batches, by rank",
        text="Seconds each second.",
        queries=(
            Query(
                rate("reader_wait_seconds_total").replace(BY, "by (stage, task, rank)"),
                "{{stage}} {{task}} rank {{rank}}",
            ),
        ),
        unit="percentunit",
    ),
    Panel(title="Loss", text="In nats.", queries=training("loss")),
    Panel(
        title="AUC while training",
        text="Each batch is scored before it is learned from.",
        queries=training("auc"),
    ),
    Panel(
        title="Validation within the run",
        text="AUC, log loss and calibration, where the run validates.",
        queries=tuple(
            Query(training(f"validation_{name}")[0].expr, f"{{{{stage}}}} {{{{task}}}} {name}")
            for name in ("auc", "log_loss", "calibration_ratio")
        ),
    ),
    Panel(title="Learning rate", text="Dense parameters.", queries=training("learning_rate")),
    Panel(
        title="Gradient norm",
        text="Dense parameters, before it is clipped.",
        queries=training("gradient_norm"),
    ),
    Panel(
        title="Checkpoints: seconds each",
        text="Time that training stands.",
        queries=(
            Query(
                f"sum {BY} (frostrank_training_checkpoint_seconds_total{{{CHOSEN}}})"
                f" / sum {BY} (frostrank_training_checkpoints_total{{{CHOSEN}}})"
            ),
        ),
        unit="s",
    ),
    Panel(
        title="Checkpoints: bytes",
        text="The newest one.",
        queries=training("checkpoint_bytes"),
        unit="bytes",
    ),
)
