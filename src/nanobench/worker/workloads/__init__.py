"""What an arm does between two readings of the clock."""
