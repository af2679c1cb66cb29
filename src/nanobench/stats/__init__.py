"""Statistics of measured times: functions of numbers only."""
