"""A Django project: its users upload digits, its staff decide which version of the model reads them."""
