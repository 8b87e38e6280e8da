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
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "serve_bridge.adapters.django",
    "shop",
]
MIDDLEWARE = [
    "serve_bridge.adapters.django.middleware.ServeBridgeMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
]
SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}
DATABASES = {"default": {**SQLITE, "ATOMIC_REQUESTS": True}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
USE_TZ = True
FOR_ALL = {"decorators": ["django.contrib.auth.decorators.login_not_required"]}
SERVE_BRIDGE = {
    "RUNTIME": os.environ.get("PROJECT_RUNTIME"),
    "ROUTES": {
        "count/": {"endpoint": "count", **FOR_ALL},
        "async/count/": {"endpoint": "acount", **FOR_ALL},
        "names/<int:pk>/": {"endpoint": "name_of", **FOR_ALL},
        "me/": {"endpoint": "me", "context": {"user_id": "user.pk", "theme": "session.theme"}},
    },
}

if importlib.util.find_spec("project.database"):  # where the tests have a PostgreSQL
    from project.database import DATABASES  # noqa: F401
