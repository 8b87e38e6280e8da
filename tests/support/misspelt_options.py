"""Misspelt and ill-typed options that a type checker must report: `make check` runs mypy over this file.

Each comment ignores one error. If mypy no longer finds the error, it reports the comment.
"""

import serve_bridge as serve

serve.backend("b", num_replicas=2, exposed_methods=["a"], user_config={"a": 1})
serve.backend("b", num_replica=2)  # type: ignore[call-overload]
serve.backend("b", num_replicas="2")  # type: ignore[call-overload]
serve.endpoint("e", traffic={"b": 1}, shadows={})
serve.endpoint("e", trafic={"b": 1})  # type: ignore[call-arg]
serve.deploy("shop", prun=True)  # type: ignore[call-arg]
