"""The load generators: closed loops, open loops, long bodies, streams, idle connections and calls from Python."""
