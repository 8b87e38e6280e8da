"""The common part of all adapters: the bridge of an app to an instance, forwarded routes, and outcomes of requests."""
