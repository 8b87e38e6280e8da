"""The standalone HTTP server: an ASGI app over a router, its route index, and the edge that serves it."""
