"""User code: its form, its checks and its way to a replica. Used in callers and in replicas; knows no connection."""
