"""The verbs as torchx components.

    torchx run -s local_cwd jobs/components.py:pretrain --config FILE -j 1x2

torchx loads this file by executing it, outside any package: it imports torchx and the standard
library, nothing of ours. `jobs.launch` submits these through the Runner.
"""

import shlex
import sys
from pathlib import Path

from torchx import specs
from torchx.components import dist

__all__ = ["evaluate", "export", "judge", "prepare", "pretrain", "rank"]

# torchrun's store is shared with the ranks' own by default; with gloo that makes restarts of a
# failed rank time out in more than half of the cases.
_ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def prepare(config: str, *overrides: str, image: str = "frostrank") -> specs.AppDef:
    """Events to sequences and requests; one process.

    Args:
        config: TOML file.
        overrides: settings to replace, a.b=value.
        image: container image, where the scheduler runs containers.
    """
    return _app("prepare", config, overrides, j="1x1", image=image)


def pretrain(
    config: str, *overrides: str, j: str = "1x2", image: str = "frostrank", resume: bool = False
) -> specs.AppDef:
    """Generative pretraining.

    Args:
        config: TOML file.
        overrides: settings to replace, a.b=value.
        j: nodes x processes a node.
        image: container image, where the scheduler runs containers.
        resume: continue from the newest checkpoint.
    """
    return _app("pretrain", config, overrides, j=j, image=image, resume=resume)


def export(config: str, *overrides: str, j: str = "1x2", image: str = "frostrank") -> specs.AppDef:
    """Tables and dense layers of a pretraining checkpoint to the sparse export.

    Args:
        config: TOML file.
        overrides: settings to replace, a.b=value.
        j: nodes x processes a node.
        image: container image, where the scheduler runs containers.
    """
    return _app("export", config, overrides, j=j, image=image)


def rank(
    config: str, *overrides: str, j: str = "1x2", image: str = "frostrank", resume: bool = False
) -> specs.AppDef:
    """Ranking with one strategy.

    Args:
        config: TOML file.
        overrides: settings to replace, a.b=value.
        j: nodes x processes a node.
        image: container image, where the scheduler runs containers.
        resume: continue from the newest checkpoint.
    """
    return _app("rank", config, overrides, j=j, image=image, resume=resume)


def evaluate(
    config: str, *overrides: str, j: str = "1x2", image: str = "frostrank"
) -> specs.AppDef:
    """Validation and test metrics of every ranking model there is, and the report.

    Args:
        config: TOML file.
        overrides: settings to replace, a.b=value.
        j: nodes x processes a node.
        image: container image, where the scheduler runs containers.
    """
    return _app("evaluate", config, overrides, j=j, image=image)


def judge(config: str, *overrides: str, j: str = "1x2", image: str = "frostrank") -> specs.AppDef:
    """Finished rankers of some days side by side, on the same requests.

    Args:
        config: TOML file.
        overrides: settings to replace, a.b=value.
        j: nodes x processes a node.
        image: container image, where the scheduler runs containers.
    """
    return _app("judge", config, overrides, j=j, image=image)


def _app(
    verb: str,
    config: str,
    overrides: tuple[str, ...],
    *,
    j: str,
    image: str,
    resume: bool = False,
) -> specs.AppDef:
    arguments = ["--config", config]
    for override in overrides:
        arguments += ["--set", override]
    if resume:
        arguments.append("--resume")
    app = dist.ddp(
        *arguments,
        m=f"jobs.{verb}",
        name=f"frostrank/{verb}",
        j=j,
        image=image,
        env=dict(_ENVIRONMENT),
    )
    # On this machine torchrun lies beside the Python that submits, which need not be on the path.
    here = shlex.quote(str(Path(sys.executable).parent))
    for role in app.roles:
        role.args[1] = f'PATH={here}:"$$PATH" {role.args[1]}'
    return app
