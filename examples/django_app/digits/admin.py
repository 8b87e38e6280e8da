"""The database in the admin."""

# mypy: allow-subclassing-any, allow-untyped-decorators

from django.contrib import admin
from django.http import HttpRequest

from examples.django_app.digits.models import Reading


@admin.register(Reading)
class ReadingAdmin(admin.ModelAdmin):
    """The readings, which cannot be edited."""

    list_display = ("read_at", "user", "digit", "confidence", "version")
    list_filter = ("version", "digit")
    list_select_related = ("user",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Reading | None = None) -> bool:
        """Refuse."""
        return False
