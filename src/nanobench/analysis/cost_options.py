"""The options of `nanobench cost`. They stand apart from the analysis so that --help loads no pandas."""

import math
from dataclasses import dataclass, fields

from nanobench.errors import UserError
from nanobench.schema import option

PRICES, WORKLOAD, LIMITS = "Prices and power", "Workload", "Latency limits"
"""Panels of --help."""
VALID = {
    "price_per_hour": "USD an hour of the machine, above 0, like 3",
    "power_w": "watts of the machine under load, above 0, like 300",
    "idle_power_w": "watts of the machine without work, from 0 up, like 60",
    "price_per_kwh": "USD a kWh, above 0, like 0.15",
    "requests_per_day": "replies a day, above 0, like 10e6",
    "max_ttft": "seconds to the first token, above 0, like 0.5",
    "max_tpot": "seconds per further token, above 0, like 0.05",
    "gpus": "a whole number from 1 up, like 8",
    "tokens": "tokens to train on, above 0, like 1e9",
}
"""Option -> its valid values."""


@dataclass(frozen=True, kw_only=True)
class CostOptions:
    """Prices, power and workload; None for what was not given. Raises UserError for invalid values."""

    price_per_hour: float | None = option(None, "price of the machine per hour", PRICES, "USD")
    power_w: float | None = option(
        None, "average power of the machine under load, for cells without measured energy", PRICES, "W"
    )
    idle_power_w: float | None = option(None, "power of the machine without work", PRICES, "W")
    price_per_kwh: float | None = option(None, "price of electricity", PRICES, "USD")
    requests_per_day: float | None = option(None, "replies per day: gives machines needed and cost per year", WORKLOAD, "N")
    tokens: float | None = option(None, "tokens to train on: gives GPU-hours and cost", WORKLOAD, "N")
    gpus: int = option(1, "GPUs of the machine, for GPU-hours of training", WORKLOAD, "N")
    max_ttft: float | None = option(None, "name the cheapest cell with a TTFT of at most this", LIMITS, "SECONDS")
    max_tpot: float | None = option(None, "name the cheapest cell with a TPOT of at most this", LIMITS, "SECONDS")

    def __post_init__(self) -> None:
        for name, value in self.given.items():
            if value is not None and not (0 < value < math.inf or (name == "idle_power_w" and value == 0)):
                raise UserError(f"--{name.replace('_', '-')} {value:g} is out of range; give {VALID[name]}")
        if self.power_w is not None and self.idle_power_w is not None and self.idle_power_w > self.power_w:
            raise UserError(
                f"--idle-power-w {self.idle_power_w:g} is above --power-w {self.power_w:g}; "
                "give the power without work, and the power under load"
            )

    @property
    def given(self) -> dict[str, float | None]:
        """Option -> its value."""
        return {each.name: getattr(self, each.name) for each in fields(CostOptions)}

    @property
    def limits(self) -> dict[str, float]:
        """Column -> its upper limit."""
        options = {"ttft_s": self.max_ttft, "tpot_s": self.max_tpot}
        return {name: limit for name, limit in options.items() if limit is not None}
