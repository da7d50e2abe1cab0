"""What does arithmetic that is faster cost in AUC? Five strategies, several seeds, on real data.

    python -m benchmarks.quality FOLDER [--data beauty] [--beauty DIR] [--seeds 3]
                                 [--only TEXT] [--strategies NT 'ST&SF' ...] [--json FILE]

The base and each variant (benchmarks/quality_plan.py) go through the jobs pretrain, export, rank
and evaluate, one process each. Beauty's two files are brought by the user (`--beauty`); Complete
Journey is fetched. Prints test AUC, mean and standard deviation over seeds, and writes it with
every run's own figures to FOLDER/quality_DATA.json. A rerun goes on where the last one was
interrupted, takes what is finished as it is, and shows all that is there. docs/quality.md says what
came out.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.quality_beauty import write_examples
from benchmarks.quality_plan import (
    BASE,
    DATA_SETS,
    DataSet,
    asked_strategies,
    chosen_variants,
)
from benchmarks.quality_runs import Runs
from benchmarks.quality_table import Found, by_epoch_table, validated_table
from jobs.facts import machine
from jobs.runs import write_json
from pipeline.errors import ConfigError, FrostrankError


def main() -> None:
    """Run what is not there yet and print; exit code 1 with one line if a run fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where data, runs and results are kept")
    parser.add_argument("--data", choices=sorted(DATA_SETS), default="beauty")
    parser.add_argument("--beauty", type=Path, default=Path("data/beauty"), help="Beauty's files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", metavar="TEXT", help="variants with this in their name")
    parser.add_argument(
        "--strategies", nargs="+", metavar="NAME", default=[], help="these; default: all asked for"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where results are written")
    arguments = parser.parse_args()
    try:
        _measure(arguments)
    except FrostrankError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


def _measure(arguments: argparse.Namespace) -> None:
    data = DATA_SETS[arguments.data]
    variants = chosen_variants(data, arguments.only)
    folder = arguments.folder.absolute() / arguments.data
    if arguments.data == "beauty":
        write_examples(arguments.beauty, folder / "source")
    runs = Runs(folder, data)
    runs.prepare()
    # Seed by seed: an interrupted run has a whole table of fewer seeds.
    for seed in range(arguments.seeds):
        for name, variant in variants.items():
            if strategies := asked_strategies(variant, arguments.strategies):
                runs.run(name, seed, strategies)
    found, baselines = runs.found(arguments.seeds), runs.baselines()
    about = {"data": data.title, "machine": machine(), "seeds": arguments.seeds}
    target = arguments.json or arguments.folder / f"quality_{arguments.data}.json"
    write_json(target.absolute(), {**about, "baselines": baselines, "found": found})
    _print(data, found, baselines)


def _print(data: DataSet, found: Found, baselines: Mapping[str, float]) -> None:
    print(f"{data.title}; {machine()}; test AUC, mean and standard deviation over seeds")
    by_epoch = {name for name, variant in data.variants.items() if variant.tested_by_epoch}
    print(validated_table({n: of for n, of in found.items() if n not in by_epoch}, BASE))
    if tested := {n: of for n, of in found.items() if n in by_epoch}:
        print(by_epoch_table(tested))
    for name, auc in baselines.items():
        print(f"without training, {name}: {auc:.4f}")


if __name__ == "__main__":
    main()
