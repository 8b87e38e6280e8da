"""Examples: a model behind endpoints, and Django, Flask and Starlette apps that use it."""
