"""What HTTP says, for every process; knows no endpoint, no socket and no framework."""
