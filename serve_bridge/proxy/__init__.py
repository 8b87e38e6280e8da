"""The standalone HTTP proxy: it routes paths to endpoints. Runs in proxies; knows no client, replica or user code."""
