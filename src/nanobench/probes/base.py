"""The contract that every probe meets: read just before and just after a repetition, never during one."""

from typing import Any, Protocol

from nanobench.records import Repetition


class Probe(Protocol):
    """An instrument beside the clock. It never raises: what it can't read is None, and `note` says why."""

    @property
    def note(self) -> str | None:
        """Why readings are missing; None where nothing is."""
        ...

    def ready(self) -> None:
        """The model is on the device now: what is new there since the probe was made is ours."""
        ...

    def before(self) -> None:
        """Takes the counters' values at the start of a repetition."""
        ...

    def after(self) -> dict[str, Any]:
        """What the repetition saw: values of fields of schema.Readings."""
        ...

    def close(self) -> list[Repetition]:
        """Ends the probe and gives the samples, of kind `sample`, that it took beside the repetitions."""
        ...
