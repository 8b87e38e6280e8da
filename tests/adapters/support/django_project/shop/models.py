"""What is in the database."""

from django.db import models


class Item(models.Model):
    """Something with a name."""

    name = models.CharField(max_length=50)
