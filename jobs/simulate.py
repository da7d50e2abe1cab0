"""A simulated marketplace as an events log, with the best AUC that any model can hope for.

    python -m jobs.simulate --out DIR --users N --items N --days N [--seed N] [--topics N ...]

Writes DIR/events/day=D/ (a source for `prepare`) and DIR/truth/ (the probability of each label,
and summary.json). docs/simulator.md has the model behind it.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from tqdm import tqdm

from pipeline.errors import ConfigError, FrostrankError
from pipeline.settings import Settings
from pipeline.simulation.figures import Summary
from pipeline.simulation.log import ACTIONS
from pipeline.simulation.marketplace import SimulationSettings
from pipeline.simulation.simulate import SUMMARY, simulate

__all__ = ["main", "simulation_settings"]


def main(arguments: list[str] | None = None) -> None:
    """Simulate; exit code 1 with one clear line if that fails, 2 if a setting is wrong."""
    values = vars(_parser().parse_args(arguments))
    out: Path = values.pop("out")
    try:
        started_s = time.monotonic()
        summary = _simulate(simulation_settings(values), out)
        print(_table(summary, out, time.monotonic() - started_s))
    except FrostrankError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        print("interrupted; the days that are there are whole", file=sys.stderr)
        sys.exit(130)


def simulation_settings(values: dict[str, str]) -> SimulationSettings:
    """The settings of a command line: setting -> text, sections left out.

    Raises:
        ConfigError: a value is of the wrong type or contradicts another; names the option.
    """
    nested: dict[str, Any] = {}
    for section, name, _ in _options():
        if name in values:
            (nested.setdefault(section, {}) if section else nested)[name] = values[name]
    try:
        return SimulationSettings.model_validate(nested)
    except ValidationError as error:
        problem = error.errors()[0]
        location = problem["loc"]
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "value_error":
            raise ConfigError(text) from None
        option = _flag(str(location[-1]))
        raise ConfigError(f"{option}: {text} (got {problem['input']!r})") from None


def _options() -> list[tuple[str, str, FieldInfo]]:
    """Section (empty for none), name and field of every setting."""
    options: list[tuple[str, str, FieldInfo]] = []
    for name, field in SimulationSettings.model_fields.items():
        if isinstance(field.default, Settings):
            section = type(field.default)
            options += [(name, *option) for option in section.model_fields.items()]
        else:
            options.append(("", name, field))
    return options


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder, new or this one's own")
    groups: dict[str, Any] = {"": parser}
    for section, name, field in _options():
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        default = "" if field.is_required() else f"; default: {field.default}"
        groups[section].add_argument(
            _flag(name),
            required=field.is_required(),
            metavar="N",
            help=f"{cast(str, field.description)}{default}".replace("%", "%%"),
        )
    return parser


def _simulate(settings: SimulationSettings, out: Path) -> Summary:
    bar = tqdm(desc="simulated days", unit="day", disable=not sys.stderr.isatty())

    def show(_: str, done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    try:
        return simulate(settings, out, show)
    finally:
        bar.close()


def _table(summary: Summary, out: Path, seconds: float) -> str:
    """What was written, and the AUCs of the last days, as text."""
    num_events = sum(summary.counts[action] for action in ACTIONS)
    lines = [
        f"{out}: SIMULATED, {num_events:,} events ({num_events / seconds:,.0f} a second)",
        "  " + ", ".join(f"{name} {number:,}" for name, number in summary.counts.items()),
    ]
    for task, figures in summary.tasks.items():
        span = figures.last_days
        if span is None:
            lines.append(f"  {task}: the log ends before the first window does")
            continue
        lines.append(
            f"  {task}, {span.first_day} to {span.last_day}: {span.num_samples:,} "
            f"{figures.candidates}, {span.num_positives:,} positives, AUC (within requests):"
        )
        for name, auc in span.auc.items():
            within = span.auc_within_request.get(name)
            lines.append(f"    {name:24}{_auc(auc)}  {f'({_auc(within)})' if within else ''}")
    return "\n".join([*lines, f"all figures: {out / SUMMARY}"])


def _auc(value: float | None) -> str:
    return "   -  " if value is None else f"{value:.4f}"


if __name__ == "__main__":
    main()
