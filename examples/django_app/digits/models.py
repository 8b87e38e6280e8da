"""The tables of the site."""

# mypy: allow-subclassing-any

from django.conf import settings
from django.db import models


class Reading(models.Model):
    """A digit read by a version of the model for a user."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="readings")
    digit = models.PositiveSmallIntegerField()
    confidence = models.FloatField(help_text="From 0 to 1.")
    version = models.CharField(max_length=100, db_index=True, help_text="The backend that answered.")
    read_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        """The latest first."""

        ordering = ("-read_at",)

    def __str__(self) -> str:
        return f"{self.digit}, {self.confidence:.0%} sure"
