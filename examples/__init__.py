"""Examples: `hello` has a first file for each framework. The other apps share a model of digits.

The Django, Flask and Starlette apps import `examples.digits` and `examples.pictures`, so they run from the repository's
root. To start an app of your own, copy a file of `hello` instead.
"""
