"""Flask: routes of an app that are answered by endpoints, and handles for its views.

    bridge = ServeBridge()
    bridge.init_app(app)
    app.add_url_rule("/classify", view_func=bridge.view("classify"), methods=["POST"])

Rule 1: state lives in `app.extensions["serve_bridge"]`, so that one extension may serve several apps.
Rule 2: the app stays in force: `before_request`, `after_request`, `errorhandler`, `MAX_CONTENT_LENGTH`.
Rule 3: `init_app` reads the configuration and registers rules; it connects to nothing and starts nothing.
"""

from serve_bridge.adapters.flask.extension import ServeBridge
from serve_bridge.adapters.flask.surroundings import in_app

__all__ = ["ServeBridge", "in_app"]
