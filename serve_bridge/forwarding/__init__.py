"""An HTTP request or WebSocket on its way to an endpoint, and its answer. Runs in proxies and web workers."""
