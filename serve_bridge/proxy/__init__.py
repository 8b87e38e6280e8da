"""The standalone HTTP proxy, which routes a path to an endpoint. Runs in proxies; knows no client, replica or user code."""
