"""The standalone HTTP proxy: from a path to an endpoint, over `http_server` and a router. Runs in proxies."""
