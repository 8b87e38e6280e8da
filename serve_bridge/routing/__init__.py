"""Which backend, which replica, which socket. Runs in proxies and in callers; knows no handle or framework."""
