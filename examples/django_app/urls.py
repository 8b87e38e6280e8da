"""The paths of the site."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("", include("examples.django_app.digits.urls")),
    path("accounts/", include("django.contrib.auth.urls")),
    path("admin/", admin.site.urls),
]
