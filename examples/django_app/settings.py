"""Settings: an ordinary project without a database."""

import os

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "only for this example")
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "examples.django_app.urls"
WSGI_APPLICATION = "examples.django_app.wsgi.application"
ASGI_APPLICATION = "examples.django_app.asgi.application"
INSTALLED_APPS = ["serve_bridge.adapters.django"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
]
USE_TZ = True

# ADDRESS: None is the environment's SERVE_BRIDGE_ADDRESS, else the instance of this user on this machine.
SERVE_BRIDGE = {"ADDRESS": None, "TIMEOUT_S": 20}
