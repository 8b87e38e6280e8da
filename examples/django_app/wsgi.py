"""The project as a WSGI application."""

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "examples.django_app.settings")
# A site of yours leaves its static files to the web server in front of it; here is none.
application = StaticFilesHandler(get_wsgi_application())
