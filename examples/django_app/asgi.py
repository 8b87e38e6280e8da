"""The project as an ASGI application."""

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "examples.django_app.settings")
# A site of yours leaves its static files to the web server in front of it; here is none.
application = ASGIStaticFilesHandler(get_asgi_application())
