"""The controller of an instance, in a process of its own. It imports no client, router, proxy or replica."""
