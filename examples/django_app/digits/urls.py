"""The paths of the application; the last two are answered by backends."""

from django.urls import path
from django.views.decorators.http import require_POST, require_safe

from examples.django_app.digits import views
from serve_bridge.adapters.django import bridge_view

app_name = "digits"
urlpatterns = [
    path("", views.read, name="read"),
    path("watch/<int:number>/", views.watch, name="watch"),
    path("watch/<int:number>/events/", require_safe(bridge_view("guesses")), name="events"),
    path("api/digits/", require_POST(bridge_view("digits")), name="api"),
]
