"""The contract of a probe: it is read just before and just after a repetition, never during one."""

from typing import Protocol

from nanobench.records import ReadingValues, Repetition


class Probe(Protocol):
    """A source of readings next to the clock. It never raises: a reading that fails is None, and `note` has the reason."""

    @property
    def note(self) -> str | None:
        """Why readings are missing; None if none is missing."""
        ...

    def ready(self) -> None:
        """Called when the model is on the device: processes that are new there since the probe was created are ours."""
        ...

    def before(self) -> None:
        """Reads the counters at the start of a repetition."""
        ...

    def after(self) -> ReadingValues:
        """The readings of the repetition: values of fields of records.Readings."""
        ...

    def close(self) -> list[Repetition]:
        """Ends the probe and returns the samples, of kind `sample`, that it took during the trial."""
        ...
