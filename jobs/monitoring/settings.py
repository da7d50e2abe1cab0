"""Where a run's metrics go: `[monitoring]`; nowhere unless set.

`jobs.monitoring.hook` serves them while a model trains, `jobs.monitoring.push` hands them on when a
stage has ended.
"""

from pathlib import Path

from pydantic import Field, field_validator

from pipeline.settings import Settings

__all__ = ["MonitoringSettings"]


class MonitoringSettings(Settings):
    """Where Prometheus finds what the jobs measure: `[monitoring]`."""

    # HTTP port of rank 0 while it trains; 0: none. It decides nothing of what is trained.
    port: int = Field(default=0, ge=0, le=65_535)
    # Ports that are tried, from `port` on: tasks that train side by side on one machine share a
    # config, and each takes the next free one.
    num_ports: int = Field(default=4, ge=1, le=64)
    # The address it listens on; "0.0.0.0" lets other machines ask.
    address: str = "127.0.0.1"
    # URL of a Pushgateway that gets the figures of each stage at its end.
    pushgateway: str | None = None
    # Folder that a node exporter's textfile collector reads, for the same figures.
    textfile: Path | None = None

    @field_validator("pushgateway")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no URL; write http://host:9091")
        return url
