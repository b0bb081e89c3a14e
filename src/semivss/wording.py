"""Numbers and things in, words for people out."""

import math


def counted(number: int, noun: str) -> str:
    """`1 video`, `2,000 videos`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def readable(count: int | float) -> str:
    """Bytes, such as 3.2 GB or 640 MB."""
    for unit, size, digits in (("TB", 1e12, 1), ("GB", 1e9, 1), ("MB", 1e6, 0)):
        if count >= size:
            return f"{count / size:.{digits}f} {unit}"
    return f"{count / 1e3:.0f} kB"


def megabytes(count: int | float) -> str:
    """Bytes in whole MB, rounded up, where gigabytes would hide what counts."""
    return f"{math.ceil(count / 1e6):,} MB"


def duration(seconds: int | float) -> str:
    """Such as 3 h 20 min, 45 min, 12 s or 4.6 s."""
    if 0 < seconds < 9.95:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes >= 100 * 60:
        return f"{minutes / 1440:.1f} days"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 120 else f"{minutes} min"


def operations(count: int | float) -> str:
    """Floating-point operations, such as 2 PFLOP."""
    units = ("GFLOP", "TFLOP", "PFLOP", "EFLOP")
    power = next((power for power in range(len(units) - 1) if count < 1000 ** (power + 4)), len(units) - 1)
    return f"{count / 1000 ** (power + 3):.3g} {units[power]}"
