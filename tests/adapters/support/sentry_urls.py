"""The URLs of the Django project in `sentry_site`."""

from django.urls import path

from serve_bridge.adapters.django import abridge_view, bridge_view

urlpatterns = [
    path("failing/<int:number>", bridge_view("failing")),
    path("afailing/<int:number>", abridge_view("failing")),
]
