"""What every verb shares: its arguments, and errors turned into one line and an exit code."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from jobs.settings import JobSettings
from pipeline.errors import ConfigError, FrostrankError
from pipeline.settings import load_settings
from pipeline.shortage import shortages_told

__all__ = ["Arguments", "parser_of", "printed", "run_verb"]


@dataclass(frozen=True, slots=True)
class Arguments:
    """A verb's command line, read."""

    settings: JobSettings
    resume: bool


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A command line with what all of them take: --config FILE, --set a.b=value."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="TOML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=value",
        dest="overrides",
        help="replace a setting; may be given more than once",
    )
    return parser


def printed(lines: Iterable[str]) -> None:
    """Print lines, for a reader such as head that may stop reading."""
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        # It has seen enough; at its exit Python would write the rest once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_verb(
    verb: Callable[[Arguments], None], doc: str | None, *, resumable: bool = False
) -> None:
    """Parse the command line, run the verb; exit 0, 1 (it failed) or 2 (settings are wrong).

    An error reaches torchrun's error file, and through it the scheduler, before it is printed.
    """
    parser = parser_of(doc)
    if resumable:
        parser.add_argument(
            "--resume",
            action="store_true",
            help="continue from the newest checkpoint, if there is one",
        )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved settings and stop"
    )
    parsed = parser.parse_args()

    @record
    def main() -> None:
        settings = load_settings(JobSettings, parsed.config, parsed.overrides)
        if parsed.dry_run:
            print(settings.model_dump_json(indent=2))
            return
        with shortages_told(settings.data.root):
            verb(Arguments(settings, resume=resumable and parsed.resume))

    _silence_known_noise()
    try:
        main()
    except FrostrankError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        again = "; go on with --resume" if resumable else ""
        print(f"interrupted; what was published is whole{again}", file=sys.stderr)
        sys.exit(130)


def _silence_known_noise() -> None:
    """Messages that a user can do nothing about, printed once a rank and step."""
    # torch 2.13 warns of its own tracing check when TorchRec's modules are first called.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    # TorchRec 1.8 keeps tables in ShardedTensor, which torch's checkpoints still read and write.
    warnings.filterwarnings("ignore", "Please use DTensor", FutureWarning)
