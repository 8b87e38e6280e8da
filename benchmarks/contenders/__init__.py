"""The servers and calling processes that are compared, and the stage process that runs one of them at a time."""
