"""Commands that show what was measured: plot, report, export."""

