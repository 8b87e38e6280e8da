"""A Django project with an API view that calls a handle, and a forwarded route."""
