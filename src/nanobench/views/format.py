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
    if unit == "ratio":
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
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
            return f"{value / factor:.3g} {name}"
    return f"{value:.2g} s" if value else "0 s"


def size(value: float) -> str:
    """1.25 GiB, 340 MiB, 12 KiB."""
    for power, name in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if value >= 0.98 * 1024**power:
            return f"{value / 1024**power:.3g} {name}"
    return f"{value:.0f} B"


def duration(value: float) -> str:
    """3 s, 4 min 10 s, 1 h 05 min."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
