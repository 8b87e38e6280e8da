"""Flask: start this file with `python app.py`, then open http://127.0.0.1:8000/hello/ada."""

import os

from flask import Flask

import serve_bridge as serve
from serve_bridge.adapters.flask import ServeBridge


@serve.backend("hello")
def hello(request: serve.ServeRequest) -> dict[str, str]:
    """Greet the name in the path."""
    return {"message": f"Hello, {request.path_params['name']}!"}


app = Flask(__name__)
app.config["SERVE_BRIDGE_RUNTIME"] = "local"  # runs the backend in this process; without this line: on your instance
bridge = ServeBridge(app, backends=[hello])
app.add_url_rule("/hello/<name>", view_func=bridge.view("hello"))

if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "8000")))
