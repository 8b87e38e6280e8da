"""The views."""

from __future__ import annotations

import json

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_GET, require_POST

from serve_bridge.adapters.django import get_handle


@require_GET
@ensure_csrf_cookie
def index(request: HttpRequest) -> HttpResponse:
    """Give a client the token that its POSTs must carry."""
    return HttpResponse("POST JSON with 8 x 8 `pixels` to /api/digits/\n", content_type="text/plain")


@require_POST
def read_digit(request: HttpRequest) -> JsonResponse:
    """Call the endpoint as a function, and answer with what this app wants to tell."""
    try:
        pixels = json.loads(request.body)["pixels"]
    except (ValueError, KeyError, TypeError):
        return JsonResponse({"error": "JSON with `pixels` is needed"}, status=400)
    answer = get_handle("digits").call({"pixels": pixels})
    return JsonResponse({**answer, "sure": answer["confidence"] > 0.9})
