"""Django: start this file with `python app.py`, then open http://127.0.0.1:8000/hello/ada."""

import os

from django.conf import settings
from django.core.management import execute_from_command_line
from django.urls import path

import serve_bridge as serve
from serve_bridge.adapters.django import bridge_view


@serve.backend("hello")
def hello(request: serve.ServeRequest) -> dict[str, str]:
    """Greet the name in the path."""
    return {"message": f"Hello, {request.path_params['name']}!"}


urlpatterns = [path("hello/<name>", bridge_view("hello"))]

if __name__ == "__main__":
    # "local" runs the backend in this process. Without it, the backend runs on Ray. Only Django listens, no proxy does.
    client = serve.start(runtime="local", http_options={"location": "NoServer"})
    serve.deploy(hello)
    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1"],
        INSTALLED_APPS=["serve_bridge.adapters.django"],
        ROOT_URLCONF=__name__,
        SERVE_BRIDGE={"ADDRESS": client.address},
    )
    execute_from_command_line(["app.py", "runserver", "--noreload", os.environ.get("PORT", "8000")])
