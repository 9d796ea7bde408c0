"""Sizes and durations as people write them: "16G" is 16 * 1024**3 bytes, "10m" is 600 seconds."""

from __future__ import annotations

import math
import re

from hyperflow.errors import ConfigurationError

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])?(?:i?B)?\s*", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.IGNORECASE | re.ASCII)

_POWERS = {None: 0, "K": 1, "M": 2, "G": 3, "T": 4}


def to_bytes(name: str, value: object) -> int:
    """Return a size in bytes: a whole number, or a text such as "500M", "1.5G"; raises ConfigurationError."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        number, unit = match.groups()
        value = round(float(number) * 1024 ** _POWERS[unit and unit.upper()])
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ConfigurationError(f'{name}={value!r}: a size is needed, such as "16G" or "500M", or a number of bytes')


def to_seconds(name: str, value: object) -> float:
    """Return a duration in seconds: a positive number, or a text such as "90s", "10m", "1h30m"."""
    if isinstance(value, str) and value.strip() and (match := _DURATION.fullmatch(value.replace(" ", ""))):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        value = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise ConfigurationError(
        f'{name}={value!r}: a duration is needed, such as "10m", "2h" or "1h30m", or a positive number of seconds'
    )
