"""Examples: a model behind endpoints, and a Flask and a Django app that use it."""
