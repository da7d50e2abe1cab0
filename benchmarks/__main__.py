"""All speed benchmarks one after the other: `python -m benchmarks --json FILE`.

    python -m benchmarks [--size smoke|quick|full] [--parts training reader ...] [--json FILE]

Every part prints its table, as it does by itself, and the file has the figures of all of them.
`full` is what the parts do by default, `quick` less of it, and `smoke` only shows that they run.
The GPU's part takes its turn where there is a GPU; the others measure one core of the processor.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

# Part -> size -> arguments; FOLDER is an empty one.
PARTS = {
    "training": {
        "smoke": "--only|2 candidates 10,000 items frozen|--steps|4",
        "quick": "--only|L4H64A4|--steps|12",
        "full": "",
    },
    "freezing": {
        "smoke": "--architecture|L1H32A2|--items|1000|--requests|8|--turns|1",
        "quick": "--items|1000000|--turns|4",
        "full": "",
    },
    "table_size": {
        "smoke": "--architecture|L1H32A2|--items|1000|2000|--requests|8|--turns|1",
        "quick": "--items|10000|1000000|--turns|4",
        "full": "",
    },
    "whole_program": {
        "smoke": "FOLDER|--users|300|--items|200|--days|5|--epochs|1|--turns|1"
        "|--architecture|L1H32A2",
        "quick": "FOLDER|--users|4000|--items|4000|--epochs|1|--turns|1",
        "full": "FOLDER",
    },
    "attention": {"smoke": "--repeats|1", "quick": "--repeats|5", "full": ""},
    "reader": {"smoke": "--requests|2000", "quick": "--requests|20000", "full": ""},
    "gpu": {
        "smoke": "--architectures|L1H32A2|--rows|8|--steps|4",
        "quick": "--rows|512|--steps|20",
        "full": "",
    },
}


def main(argv: list[str] | None = None) -> None:
    """Run the parts; write after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("smoke", "quick", "full"), default="quick")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args(argv)
    found: dict[str, Any] = {"size": arguments.size}
    for part in arguments.parts:
        if part == "gpu" and not torch.cuda.is_available():
            print("\ngpu: none that PyTorch can use")
            continue
        print(f"\n{part}", flush=True)
        found[part] = _run(part, arguments.size)
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def _run(part: str, size: str) -> Any:
    """The figures of a part, which prints them."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        asked = [
            str(Path(folder) / "data") if argument == "FOLDER" else argument
            for argument in filter(None, PARTS[part][size].split("|"))
        ]
        command = [sys.executable, "-m", f"benchmarks.{part}", *asked, "--json", str(figures)]
        subprocess.run(command, check=True)
        return json.loads(figures.read_text())


if __name__ == "__main__":
    main()
