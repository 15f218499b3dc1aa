"""Numbers as people read them, the same in the report, the cards and the terminal."""

import math
import sys

ABSENT = "–"


def finite(value: object) -> float | None:
    """`value` as a float if it is a finite number, else None."""
    # True and False are ints in Python but no measurements.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # Comparing works for NaN (always false) and for whole numbers too large for a float.
    return float(value) if abs(value) <= sys.float_info.max else None


def number(value: object) -> str:
    """Three decimals below one, else about three digits: 0.412, 3.21, 41.2, 1,234, 5.0e−06."""
    x = finite(value)
    if x is None:
        return ABSENT
    size = abs(x)
    if size >= 100 or x == 0:
        text = f"{x:,.0f}"
    elif size >= 1:
        text = f"{x:.{2 - math.floor(math.log10(size))}f}"
    else:
        text = f"{x:.3f}" if size >= 0.001 else f"{x:.1e}"
    return text.replace("-", "−")


def signed(value: object) -> str:
    """`number` with its sign, and a real minus."""
    x = finite(value)
    if x is None:
        return ABSENT
    return ("+" if x > 0 else "−" if x < 0 else "±") + number(abs(x))


def count(value: object) -> str:
    """A whole number with thousands marked."""
    x = finite(value)
    return ABSENT if x is None else f"{round(x):,}"


def seconds(value: object) -> str:
    """A length of time: 4.2 s, 3 min 20 s, 2 h 05 min."""
    x = finite(value)
    if x is None:
        return ABSENT
    # 59.97 would be shown as 60.0 s.
    if x < 59.95:
        return f"{x:.1f} s"
    whole = round(x)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def usd(value: object) -> str:
    """Money: two decimals from one dollar on, else two significant digits."""
    x = finite(value)
    if x is None:
        return ABSENT
    if x == 0:
        return "$0"
    if abs(x) >= 1:
        return f"${x:,.2f}"
    # Prices of single rows are tiny: two significant digits, but at most eight decimals.
    decimals = 1 - math.floor(math.log10(abs(x)))
    return f"${x:.{min(8, decimals)}f}"


def size(value: object) -> str:
    """Bytes in binary units."""
    x = finite(value)
    if x is None:
        return ABSENT
    for unit in ("B", "KiB", "MiB"):
        if abs(x) < 1024:
            return f"{x:.0f} {unit}"
        x /= 1024
    return f"{x:.2f} GiB"


def interval(low: object, high: object) -> str:
    """`[low, high]`, or nothing if a bound is absent."""
    if finite(low) is None or finite(high) is None:
        return ""
    return f"[{number(low)}, {number(high)}]"


def percent(part: float, whole: float) -> str:
    """A share as a whole percentage, nothing of nothing as 0 %."""
    # Below one percent a decimal is needed to tell few from none.
    share = 100 * part / whole if whole else 0.0
    return f"{share:.1f} %" if 0 < share < 1 else f"{share:.0f} %"


def failures(num_failed: int, n: int) -> str:
    """How many items gave no value, with their share; "0" for none."""
    return f"{count(num_failed)} ({percent(num_failed, n + num_failed)})" if num_failed else "0"


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(names) < 2:
        return names[0] if names else "none"
    return f"{', '.join(names[:-1])} and {names[-1]}"
