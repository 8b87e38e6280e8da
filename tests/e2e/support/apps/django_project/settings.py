"""The project's settings; where the instance is says the environment."""

SECRET_KEY = "tests"
ROOT_URLCONF = "tests.e2e.support.apps.django_project.urls"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["serve_bridge.adapters.django"]
MIDDLEWARE = ["tests.e2e.support.apps.django_project.middleware.NameWorker"]
DEBUG = True
USE_TZ = True
