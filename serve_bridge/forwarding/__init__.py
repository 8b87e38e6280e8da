"""An HTTP request or WebSocket on its way to an endpoint. Runs in proxies and web workers; must not know frameworks."""
