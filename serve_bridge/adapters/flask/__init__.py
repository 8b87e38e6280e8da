"""Flask: forwarded routes of an app, and handles for its views.

    bridge = ServeBridge()
    bridge.init_app(app)
    app.add_url_rule("/classify", view_func=bridge.view("classify"), methods=["POST"])

Rule 1: the state is in `app.extensions["serve_bridge"]`, so one extension may serve several apps.
Rule 2: the app's `before_request`, `after_request`, `errorhandler` and `MAX_CONTENT_LENGTH` apply to forwarded routes.
Rule 3: `init_app` reads the configuration and registers rules. It does not connect, and starts nothing.
"""

from serve_bridge.adapters.flask.extension import ServeBridge
from serve_bridge.adapters.flask.surroundings import in_app

__all__ = ["ServeBridge", "in_app"]
