"""A project as its owner would write it."""
