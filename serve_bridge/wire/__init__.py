"""The data plane. Runs in every process; knows frames, streams and connections; must not know endpoints or routing."""
