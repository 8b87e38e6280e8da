"""No web framework: start this file with `python app.py`, then open http://127.0.0.1:8000/hello/ada."""

import contextlib
import os
import signal

import serve_bridge as serve


@serve.backend("hello", route="/hello/{name}")
def hello(request: serve.ServeRequest) -> dict[str, str]:
    """Greet the name in the path."""
    return {"message": f"Hello, {request.path_params['name']}!"}


if __name__ == "__main__":
    # "local" runs the backend in this process. Without it, the backend runs on Ray.
    client = serve.start(runtime="local", http_options={"port": int(os.environ.get("PORT", "8000"))})
    serve.deploy(hello)
    print(f"Open {client.http_urls[0]}/hello/ada. Ctrl-C ends it.")
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
    serve.shutdown()
