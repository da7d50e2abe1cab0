"""The whole chain, by default on real purchases: fetch, prepare, pretrain, export, rank, evaluate.

    make demo
    python -m jobs.demo [--config FILE] [--processes 2] [--set a.b=value ...]

Every stage is a torchx component, submitted through the Runner to local_cwd, with the tables
sharded over the processes. Ends with a table and a report.
"""

import argparse
import sys
import time
from pathlib import Path

from torchx.runner import Runner, get_runner
from torchx.schedulers.local_scheduler import SignalException
from tqdm import tqdm

from jobs.launch import Submission, run_stage
from jobs.settings import JobSettings
from jobs.strategies import Strategy
from pipeline.adapters.ingest import ingest
from pipeline.errors import ConfigError, FrostrankError
from pipeline.settings import load_settings

__all__ = ["main"]

CONFIG = Path("deploy/configs/complete_journey.toml")


def main() -> None:
    """Run the demo; exit code 1 with one clear line if a stage fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help=f"default: {CONFIG}")
    parser.add_argument("--processes", type=int, default=2, help="ranks of each stage; default: 2")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value", dest="overrides")
    arguments = parser.parse_args()
    try:
        settings = load_settings(JobSettings, arguments.config, arguments.overrides)
        _run(settings, arguments)
    except FrostrankError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except (KeyboardInterrupt, SignalException):
        print("interrupted; what was finished is kept", file=sys.stderr)
        sys.exit(130)


def _run(settings: JobSettings, arguments: argparse.Namespace) -> None:
    started_s = time.monotonic()
    _bring_data(settings)
    with get_runner() as runner:
        chain = _Chain(runner, settings, arguments)
        chain.stage("prepare", "prepare", progress=settings.data.root)
        chain.stage("pretrain", "pretrain", progress=settings.pretraining_folder)
        chain.stage("export", "export")
        for strategy in Strategy:
            chain.stage(
                "rank",
                f"rank {strategy.value}",
                f"ranking.strategy={strategy.value}",
                progress=settings.ranking_folder(strategy),
            )
        chain.stage("evaluate", "evaluate")
    print((settings.evaluation_folder / "summary.txt").read_text())
    print(f"report: {(settings.evaluation_folder / 'report.html').resolve()}")
    print(f"the whole chain took {time.monotonic() - started_s:.0f} s")


def _bring_data(settings: JobSettings) -> None:
    if settings.ingest is None:
        print(f"{settings.source.path}: taken as it is, as there is no [ingest]", flush=True)
        return
    print(f"ingest: {settings.ingest.format}", flush=True)
    folder = settings.source.path
    bar = tqdm(desc="  day partitions", unit="day", disable=not sys.stderr.isatty())

    def show(step: str, done: int, total: int) -> None:
        if step == "days":
            bar.total = total
            bar.update(done - bar.n)

    report, is_new = ingest(folder, settings.ingest, settings.features, show)
    bar.close()
    what = f"{len(report.days)} days written" if is_new else "up to date"
    print(f"  {folder}: {what}", flush=True)


class _Chain:
    """Submits stages one after the other and prints how long each took."""

    def __init__(
        self, runner: Runner, settings: JobSettings, arguments: argparse.Namespace
    ) -> None:
        self._runner, self._settings, self._arguments = runner, settings, arguments

    def stage(self, verb: str, title: str, *overrides: str, progress: Path | None = None) -> None:
        print(f"{title} ...", flush=True)
        seconds = run_stage(
            self._runner,
            Submission(
                verb=verb,
                config=self._arguments.config,
                overrides=[*self._arguments.overrides, *overrides],
                processes=self._arguments.processes,
                title=title,
                log_folder=self._settings.data.root / "logs" / verb,
                progress=progress / "progress.json" if progress else None,
            ),
        )
        print(f"{title}: done in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
