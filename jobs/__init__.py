"""One verb a module, the one training loop, torchx components, the chain."""

import os

from jobs.lifetime import end_with_parent, is_rank

# Before torch is imported, which reads it once. By default a thread that is done spins until the
# others are, and where other programs use the cores these do not get on: steps then take ten to
# twenty times as long (docs/performance.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Before torch is imported, which takes seconds in which the launcher may be killed.
if is_rank():
    end_with_parent()
