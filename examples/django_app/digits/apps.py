"""The applications for INSTALLED_APPS."""

# mypy: allow-subclassing-any

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class DigitsConfig(AppConfig):
    """The pages."""

    name = "examples.django_app.digits"
    verbose_name = "Digits"


class DigitsAdminConfig(AdminConfig):
    """Django's admin with the page of the traffic."""

    default_site = "examples.django_app.digits.admin_site.DigitsAdminSite"
