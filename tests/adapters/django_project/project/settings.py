"""Settings; a test gives it another database by the environment, or by a module beside this one."""

import importlib.util
import os
from pathlib import Path

BASE_DIR = Path(__file__).parents[1]
SECRET_KEY = "tests"
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "project.urls"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.staticfiles",
    "serve_bridge.adapters.django",
    "shop",
]
MIDDLEWARE = [
    "serve_bridge.adapters.django.middleware.ServeBridgeMiddleware",
    "django.middleware.common.CommonMiddleware",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
USE_TZ = True
SERVE_BRIDGE = {
    "RUNTIME": os.environ.get("PROJECT_RUNTIME"),
    "ROUTES": {"count/": "count", "async/count/": "acount", "names/<int:pk>/": "name_of"},
}

if importlib.util.find_spec("project.database"):  # where the tests have a PostgreSQL
    from project.database import DATABASES  # noqa: F401
