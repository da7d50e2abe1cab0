"""What `prepare` made of the shop, without what other tests' jobs made of it since."""

import shutil
from pathlib import Path

from tests.integration.conftest import settings_of

KINDS = ("vocabulary", "catalogue", "sequences", "tails", "requests")


def copy_prepared(config: Path, root: Path) -> None:
    """Copy it to a root of its own."""
    source = settings_of(config).data.root
    for kind in KINDS:
        if (source / kind).exists():
            shutil.copytree(source / kind, root / kind)
