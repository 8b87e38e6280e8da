"""The management commands of the application, a module each."""
