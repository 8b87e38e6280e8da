"""What all adapters share: an app's way to an instance, its forwarded routes and what becomes of a request."""
