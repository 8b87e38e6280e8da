"""An HTTP/1.1 and WebSocket server for one ASGI application. Runs in proxies; knows no endpoint, router or instance."""
