"""Django's admin with one additional page: the split of an endpoint's traffic among versions."""

# mypy: allow-subclassing-any

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse

from examples.django_app.digits import traffic
from examples.django_app.digits.forms import SplitForm
from serve_bridge import ServeBridgeError
from serve_bridge.adapters.django import get_client


class DigitsAdminSite(AdminSite):
    """The admin of this project."""

    site_header = "Which digit is it?"
    site_title = "Which digit is it?"
    index_title = "Administration"

    def get_urls(self) -> list[Any]:
        """Add the page to Django's own."""
        return [path("traffic/", self.admin_view(self.traffic), name="traffic"), *super().get_urls()]

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[dict[str, Any]]:
        """Add a link to the page to the index and the sidebar."""
        page = {"name": "Traffic", "object_name": "Traffic", "admin_url": reverse("admin:traffic"), "view_only": True}
        serving = {"name": "Serving", "app_label": "serving", "app_url": reverse("admin:traffic"), "models": [page]}
        listed: list[dict[str, Any]] = super().get_app_list(request, app_label)
        return listed if app_label else [serving, *listed]

    def traffic(self, request: HttpRequest) -> HttpResponse:
        """Show the split of each endpoint, and set a new split from the form."""
        shown = {**self.each_context(request), "title": "Traffic"}
        try:
            client = get_client()
            found = traffic.versions(client)
            forms = {name: _form(name, versions, request) for name, versions in found.items()}
            for name, form in forms.items():
                if form.is_valid():
                    client.set_traffic(name, form.weights())
                    messages.success(request, f"{name}: the new split is in force.")
                    return redirect("admin:traffic")
        except ServeBridgeError as error:
            return render(request, "digits/traffic.html", {**shown, "problem": str(error)}, status=error.http_status)
        rows = [(name, form, list(zip(found[name], form, strict=True))) for name, form in forms.items()]
        wrong = any(form.errors for form in forms.values())
        return render(request, "digits/traffic.html", {**shown, "endpoints": rows}, status=400 if wrong else 200)


def _form(endpoint: str, versions: list[traffic.Version], request: HttpRequest) -> SplitForm:
    sent = request.POST if request.POST.get("endpoint") == endpoint else None
    return SplitForm({version.name: version.percent for version in versions}, sent, prefix=endpoint)
