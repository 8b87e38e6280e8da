"""Which path is answered by whom."""

from django.urls import path

from examples.django_app import views
from serve_bridge.adapters.django import bridge_view

urlpatterns = [
    path("", views.index),
    path("api/digits/", views.read_digit),
    path("forwarded/digits/", bridge_view("digits")),
]
