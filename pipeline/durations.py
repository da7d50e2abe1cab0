"""Lengths of time in settings: `90s`, `30m`, `12h`, `3d`."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator

__all__ = ["Duration", "length_of"]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _checked(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]*[smhd]", text):
        raise ValueError(f"{text!r} is no duration; write 90s, 30m, 12h or 3d")
    return text


Duration = Annotated[str, AfterValidator(_checked)]
"""A setting that takes a whole number of seconds, minutes, hours or days."""


def length_of(duration: str) -> timedelta:
    """`"3d"` -> three days."""
    return timedelta(**{_UNITS[duration[-1]]: int(duration[:-1])})
