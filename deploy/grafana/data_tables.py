# ruff: noqa: INP001 (read by build.py, not a package)
"""The third and the fourth row of the dashboard: the day's data, and the embedding tables."""

from panels import CHOSEN, Panel, Query, last, of

__all__ = ["DATA", "TABLES"]

DATA = (
    Panel(
        title="Events of the day",
        text="Without those set aside; and the mean of seven days.",
        queries=(
            Query("frostrank:event_rows:max", "events"),
            Query("frostrank:event_rows:avg7d", "7 days"),
        ),
    ),
    Panel(
        title="Set aside",
        text="Share of the rows of the day's files, and rows.",
        queries=(Query("frostrank:set_aside:ratio", "share"),),
        unit="percentunit",
        limit=0.05,
    ),
    Panel(
        title="Rows set aside",
        text="The data report has them by reason and file.",
        queries=(Query(last("set_aside_rows", of("prepare")), "rows"),),
    ),
    Panel(
        title="Requests and candidates",
        text="",
        queries=(
            Query(last("request_rows", of("prepare")), "requests"),
            Query(last("candidate_rows", of("prepare")), "candidates"),
        ),
    ),
    Panel(
        title="New items",
        text="Share of candidates whose item was not known when the day began.",
        queries=(Query(last("new_item_ratio", of("prepare")), "share"),),
        unit="percentunit",
    ),
    Panel(
        title="Label rates",
        text="Positives among the labels that apply; and the mean of seven days.",
        queries=(
            Query(f"task:frostrank_label_ratio:max{{{CHOSEN}}}", "{{task}}"),
            Query(f"task:frostrank_label_ratio:avg7d{{{CHOSEN}}}", "{{task}} 7 days"),
        ),
        unit="percentunit",
    ),
    Panel(
        title="Candidates evaluated",
        text="On the new day, and at the gate.",
        queries=(Query(last("evaluated_rows")),),
    ),
)

TABLES = (
    Panel(
        title="Rows",
        text="Of all tables: those that stand for a value, and all.",
        queries=(
            Query(last("table_known_rows", of("pretrain")), "known"),
            Query(last("table_rows", of("export")), "capacity"),
        ),
    ),
    Panel(
        title="New rows",
        text="Values that the day brought.",
        queries=(Query(last("table_new_rows", of("pretrain")), "new"),),
    ),
    Panel(
        title="Bytes",
        text="Of the tables, and of the export's files.",
        queries=(
            Query(last("table_bytes", of("export")), "tables"),
            Query(last("export_bytes", of("export")), "export"),
        ),
        unit="bytes",
    ),
    Panel(
        title="Tables exported",
        text="",
        queries=(Query(last("export_tables", of("export")), "tables"),),
        kind="stat",
    ),
    Panel(
        title="Norm and drift",
        text="Mean norm of a row; its mean change since the published export over that.",
        queries=(
            Query(last("table_norm"), "{{stage}} {{task}} norm"),
            Query(last("table_drift_ratio"), "{{stage}} {{task}} drift"),
        ),
    ),
    Panel(
        title="Size of the last checkpoint",
        text="Tables that are frozen are not in it.",
        queries=(Query(last("checkpoint_bytes")),),
        unit="bytes",
    ),
)
