"""`python -m jobs.prepare` in a process of its own, on the dirty log, and what it leaves behind."""

import subprocess
import sys
from pathlib import Path

from pipeline.manifests import MANIFEST_NAME
from pipeline.partitions import read_manifest, verify_files

CONFIG = """
[data]
root = "{folder}/root"

[source]
path = "{folder}/events"
max_set_aside_share = 0.5

[[features]]
name = "item_id"
dtype = "int64"
min_count = 2

[[features]]
name = "category"

[[features]]
name = "seller"
dtype = "int64"
hash_rows = 7

[[features]]
name = "page"
role = "context"

[days]
pretraining = ["2024-01-01", "2024-01-02"]
ranking = ["2024-01-02", "2024-01-03"]
validation = ["2024-01-04", "2024-01-04"]
test = ["2024-01-05", "2024-01-05"]

[sequences]
min_length = 2
max_length = 3

[requests]
candidates = "events"
actions = ["impression"]
max_history = 4
max_candidates = 6

[tasks.ctr]
label_actions = ["click"]
same_request = true
window = "1h"

[tasks.cvr]
label_actions = ["purchase"]
after = "ctr"
window = "1d"

[pretraining]
architecture = "L1H32A2"

[ranking]
architecture = "L1H32A2"
task = "ctr"
transfer_tables = ["item_id", "category", "seller"]
"""


def write_config(folder: Path) -> Path:
    """FOLDER/config.toml, of FOLDER/events into FOLDER/root; three blocks of days."""
    path = folder / "config.toml"
    path.write_text(CONFIG.format(folder=folder))
    return path


def command(config: Path, *overrides: str) -> list[str]:
    arguments = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, "-m", "jobs.prepare", "--config", str(config), *arguments]


def run_prepare(config: Path, *overrides: str, **more) -> subprocess.CompletedProcess[str]:
    """Run it to its end; stdout and stderr are kept as text."""
    return subprocess.run(
        command(config, *overrides), capture_output=True, text=True, check=False, **more
    )


def check_whole(root: Path) -> int:
    """Check every folder that has a manifest, file by file; returns how many there are."""
    folders = [path.parent for path in root.rglob(MANIFEST_NAME) if ".work" not in path.parts]
    for folder in folders:
        verify_files(folder, read_manifest(folder))
    return len(folders)


def published_files(root: Path) -> dict[str, bytes]:
    """Every file in a folder that is published, by its path under the root."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for manifest in root.rglob(MANIFEST_NAME)
        for path in manifest.parent.iterdir()
    }
