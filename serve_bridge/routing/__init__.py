"""Which backend, which replica, which socket. Runs in proxies and callers; must not know forwarding or clients."""
