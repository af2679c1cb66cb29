"""How a value of a unit is written: storage holds SI base units, only views scale."""

import math
from typing import Any

MISSING = "–"
SYMBOLS = {"W": "W", "J": "J", "C": "°C"}


def text(value: Any, unit: str) -> str:
    """A value for people: 12.3 ms, 1.25 GiB, 2,341, 5.3x; a dash for what is not known."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if unit == "s":
        return seconds(float(value))
    if unit == "B":
        return size(float(value))
    if unit == "tok/s":
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    if unit == "FLOP/s":
        return f"{value / 1e12:.3g} TFLOP/s" if value >= 1e12 else f"{value / 1e9:.3g} GFLOP/s"
    if unit in ("FLOP", "B/s"):
        return rate(float(value), unit)
    if unit in ("ratio", "FLOP/B"):
        return number(value)
    if unit in ("count", "tokens"):
        return f"{value:,.0f}"
    if unit == "Hz":
        return f"{value / 1e9:.3g} GHz" if value >= 1e9 else f"{value / 1e6:.4g} MHz"
    if unit == "flag":
        return "yes" if value else "no"
    if unit in SYMBOLS:
        return f"{value:.3g} {SYMBOLS[unit]}"
    return str(value) if isinstance(value, str) else f"{value:.3g}"


def seconds(value: float) -> str:
    """12.3 ms, 4.5 µs, 3.2 s."""
    for factor, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if abs(value) >= 0.9995 * factor:
            return f"{number(value / factor)} {name}"
    return f"{value:.2g} s" if value else "0 s"


def size(value: float) -> str:
    """1.25 GiB, 1,003 MiB, 12 KiB."""
    for power, name in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if value >= 0.98 * 1024**power:
            return f"{number(value / 1024**power)} {name}"
    return f"{value:.0f} B"


def duration(value: float) -> str:
    """3 s, 4 min 10 s, 1 h 05 min."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


# Numbers without a unit
def number(value: float | None, scale: float = 1) -> str:
    """12,345 or 0.0123 or 3.93e-05; a dash for what is not known."""
    if value is None:
        return MISSING
    value *= scale
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def interval(low: float | None, high: float | None, scale: float = 1) -> str:
    """[0.0251, 0.0302]; empty where there is no interval."""
    return "" if low is None else f"[{number(low, scale)}, {number(high, scale)}]"


def times(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """2.84x, 1,234x; with its interval where there is one: 2.84x [2.48, 3.25]."""
    return MISSING if value is None else f"{number(value)}x {interval(low, high)}".rstrip()


def near_one(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A ratio that should be 1, with three decimals: 1.003x [0.98, 1.02]."""
    return MISSING if value is None else f"{value:.3f}x {interval(low, high)}".rstrip()


def percent(share: float | None) -> str:
    """A share as 12 %, a small one as 0.85 %."""
    return MISSING if share is None else f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.2g} %"


def signed_percent(share: float | None) -> str:
    """A difference as a share: +12 %, -7 %."""
    return MISSING if share is None else f"{100 * share:+.0f} %"


def rate(value: float, unit: str) -> str:
    """41.5 GB/s, 181 GFLOP/s."""
    factor, name = next((f, n) for f, n in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1.0, "")) if value >= f or f == 1.0)
    return f"{value / factor:.3g} {name}{unit}"


def count(number: int, noun: str, plural: str = "") -> str:
    """1 launch, 2 launches."""
    many = plural or noun + ("es" if noun.endswith(("ch", "s", "sh", "x")) else "s")
    return f"{number:,} {noun if number == 1 else many}"


# Ticks of an axis
def tick(value: float) -> str:
    """0.25, 12, 2,000."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def ratio_tick(value: float) -> str:
    """2x, 0.5x."""
    return f"{value:.4g}x"
