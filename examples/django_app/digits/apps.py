"""The applications that INSTALLED_APPS names."""

# mypy: allow-subclassing-any

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class DigitsConfig(AppConfig):
    """The pages."""

    name = "examples.django_app.digits"
    verbose_name = "Digits"


class DigitsAdminConfig(AdminConfig):
    """Django's admin, with a page of ours."""

    default_site = "examples.django_app.digits.admin_site.DigitsAdminSite"
