"""Whether the scheduler of `[daily]` can be used at all: asked before a day begins.

DailySettings -> nothing, or a ConfigError that says what to set or to install
"""

from collections.abc import Mapping
from importlib.util import find_spec

from torchx.runner import get_runner
from torchx.specs import InvalidRunConfigException, runopts

from jobs.chain.settings import DailySettings
from jobs.launch import mounts_of
from pipeline.errors import ConfigError

__all__ = ["check_scheduler"]

# Scheduler -> a module that torchx imports for it, some only when the first stage is submitted,
# and the package that has it.
_NEEDED: Mapping[str, tuple[str, str]] = {
    "kubernetes": ("kubernetes", "kubernetes<37"),
    "kubernetes_mcad": ("kubernetes", "kubernetes<37"),
    "aws_batch": ("boto3", "boto3"),
    "aws_sagemaker": ("sagemaker", "sagemaker"),
    "gcp_batch": ("google.cloud.batch_v1", "google-cloud-batch"),
    "ray": ("ray", "ray[default]"),
}
_MOUNTING = ("local_docker", "kubernetes", "kubernetes_mcad", "aws_batch", "lsf")


def check_scheduler(daily: DailySettings) -> None:
    """Raise ConfigError where a scheduler is none of torchx's, or lacks a package or an option.

    Whether it answers is another matter, which is found out when a stage is submitted.
    """
    with get_runner() as runner:
        known = runner.scheduler_backends()
        if daily.scheduler not in known:
            raise ConfigError(
                f"daily.scheduler: {daily.scheduler!r} is none of torchx's: {', '.join(known)}"
            )
        _check_package(daily.scheduler)
        _check_mounts(daily)
        _check_options(daily, runner.scheduler_run_opts(daily.scheduler))


def _check_package(scheduler: str) -> None:
    module, package = _NEEDED.get(scheduler, ("torchx", ""))
    try:
        is_there = find_spec(module) is not None
    except ModuleNotFoundError:  # what it is a part of
        is_there = False
    if not is_there:
        raise ConfigError(
            f"daily.scheduler: {scheduler} needs the package {package.partition('<')[0]}, which "
            f"is not installed here; pip install '{package}', or set another scheduler"
        )


def _check_mounts(daily: DailySettings) -> None:
    if mounts_of(daily.mounts) and daily.scheduler not in _MOUNTING:
        raise ConfigError(
            f"daily.mounts: {daily.scheduler} mounts nothing; leave it out, or choose one of "
            f"{', '.join(_MOUNTING)}"
        )


def _check_options(daily: DailySettings, options: runopts) -> None:
    """Their names, their types, and that those without a default are there."""
    known = [name for name, _ in options]
    if unknown := [name for name in daily.scheduler_options if name not in known]:
        raise ConfigError(
            f"daily.scheduler_options: {', '.join(unknown)}: no option of {daily.scheduler}; "
            f"known: {', '.join(known)}"
        )
    try:
        options.resolve(daily.scheduler_options)
    except InvalidRunConfigException as error:
        # It goes on with all that was given, and what the scheduler takes.
        reason = str(error).partition(" Given:")[0].strip()
        raise ConfigError(f"daily.scheduler_options: {daily.scheduler}: {reason}") from None
