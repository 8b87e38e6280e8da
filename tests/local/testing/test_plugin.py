"""The pytest plug-in: its fixtures, in runs of pytest of their own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

pytest_plugins = ["pytester"]

LOCAL = """
    import serve_bridge as serve
    from serve_bridge.client.current import current_client

    def test_one(serve_bridge_local):
        assert current_client() is serve_bridge_local
        serve.create_backend("b", lambda request: "hello")
        serve.create_endpoint("e", backend="b", route="/e")
        assert serve.get_handle("e").call() == "hello"
"""


CARELESSLY_FAILED = {
    "test_a_body_above_the_limit_is_a_413",
    "test_a_body_above_the_limit_is_refused_before_it_is_sent",
    "test_another_method_than_the_routes_is_refused",
    "test_a_path_arrives_decoded",
    "test_a_route_may_let_a_header_choose_the_method",
    "test_a_route_names_the_backends_method",
    "test_computed_context_is_forwarded",
    "test_credentials_are_forwarded_if_the_route_says_so",
    "test_the_client_gets_every_cookie",
    "test_the_client_gets_every_value_of_a_repeated_header",
    "test_listed_context_is_forwarded",
    "test_the_case_of_a_header_does_not_matter",
}


@pytest.fixture
def runs(pytester: pytest.Pytester, runtime_directory: Path) -> pytest.Pytester:
    """Runs pytest as a user does: the plug-in is found by its entry point."""
    pytester.makeini(
        "[pytest]\naddopts = -p no:django -p no:asyncio -p no:randomly -p no:cacheprovider --strict-markers\n"
    )
    return pytester


def test_a_test_gets_an_instance_of_its_own(runs: pytest.Pytester) -> None:
    """What one test makes, the next does not see."""
    runs.makepyfile(LOCAL, test_other=LOCAL)
    runs.runpytest_subprocess("-q").assert_outcomes(passed=2)


def test_the_current_client_is_what_it_was_before(runs: pytest.Pytester) -> None:
    """Also that of an instance that somebody else has started."""
    runs.makepyfile(
        """
        import pytest
        import serve_bridge as serve
        from serve_bridge.client.current import current_client

        @pytest.fixture(scope="module")
        def outer():
            client = serve.start(runtime="local", name="outer", http_options={"port": 0})
            yield client
            client.shutdown()

        def test_before(outer):
            assert current_client() is outer

        def test_inside(outer, serve_bridge_local):
            assert current_client() is serve_bridge_local is not outer

        def test_after(outer):
            assert current_client() is outer
        """
    )
    runs.runpytest_subprocess("-q").assert_outcomes(passed=3)


def test_an_instance_ends_with_its_test(runs: pytest.Pytester) -> None:
    """Also when the test fails, or has ended it already."""
    runs.makepyfile(
        """
        import threading
        import serve_bridge as serve
        from serve_bridge.client.client import link_of

        seen = []

        def test_failing(serve_bridge_local):
            seen.append(serve_bridge_local)
            assert False

        def test_ending(serve_bridge_local):
            seen.append(serve_bridge_local)
            serve.shutdown()

        def test_after():
            assert len(seen) == 2
            assert [link_of(client).is_owner for client in seen] == [False, False]
        """
    )
    runs.runpytest_subprocess("-q").assert_outcomes(passed=2, failed=1)


def test_runs_beside_each_other_do_not_meet(runs: pytest.Pytester) -> None:
    """Every name and port is unique, so processes of pytest-xdist share nothing."""
    runs.makepyfile(LOCAL, test_other=LOCAL)
    runs.runpytest_subprocess("-q", "-n", "2", "--dist", "loadfile").assert_outcomes(passed=2)


def test_two_instances_at_once_do_not_meet(runs: pytest.Pytester) -> None:
    """Within one process."""
    runs.makepyfile(
        """
        from serve_bridge.testing.plugin import instance

        def test_two_at_once(serve_bridge_local):
            with instance("local") as other:
                assert other.name != serve_bridge_local.name
                assert other.http_urls != serve_bridge_local.http_urls
        """
    )
    runs.runpytest_subprocess("-q").assert_outcomes(passed=1)


def test_an_adapter_that_does_too_little_fails(runs: pytest.Pytester) -> None:
    """The contract tells one that forwards, but buffers and drops, from one that does all of it."""
    runs.makepyfile(
        """
        from serve_bridge.adapters import ForwardedRoute
        from serve_bridge.adapters.environ import scope_of
        from serve_bridge.adapters.bridge.patterns import Patterns
        from serve_bridge.testing import AdapterContract

        class Careless:
            name, interface = "careless", "wsgi"

            def application(self, bridge, routes):
                patterns = Patterns(routes)

                def app(environ, start_response):
                    found = patterns.match(environ["PATH_INFO"])
                    if found is None:
                        start_response("404 Not Found", [("content-type", "text/plain")])
                        return []
                    length = int(environ.get("CONTENT_LENGTH") or 0)
                    body = environ["wsgi.input"].read(length)
                    route = ForwardedRoute(found.route.endpoint)
                    outcome = bridge.ask(route, scope_of(environ), found.path_params, body, None)
                    start_response(f"{outcome.status} Status", list(dict(outcome.text_headers).items()))
                    return [outcome.body if isinstance(outcome.body, bytes) else b"".join(outcome.body)]

                return app

        class TestCareless(AdapterContract):
            adapter = Careless()
        """
    )
    quick = "not answer and not leaves and not first_part and not takes_too_long and not pauses and not shorten"
    outcome = runs.runpytest_subprocess("-q", "--tb=no", "-rf", "-k", quick)
    failed = {re.split(r"[ \[]", line.split("::")[-1])[0] for line in outcome.outlines if line.startswith("FAILED")}
    assert failed == CARELESSLY_FAILED


def test_what_needs_ray_has_its_marker(runs: pytest.Pytester) -> None:
    """So that a run may leave it out."""
    runs.makepyfile("def test_one(serve_bridge_ray): ...\n\ndef test_two(): ...\n")
    runs.runpytest_subprocess("-q", "-m", "not serve_bridge_ray").assert_outcomes(passed=1, deselected=1)


@pytest.mark.ray
def test_a_run_has_one_instance_on_ray(runs: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test makes in it ends with the test."""
    # A cluster that this process has started before leaves the mode of its own behind, without the token.
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "local")  # no cluster that other tests have at the moment
    runs.makepyfile(
        """
        import pytest
        import serve_bridge as serve

        names = set()

        @pytest.mark.parametrize("number", [1, 2])
        def test_one(serve_bridge_ray, number):
            names.add(serve_bridge_ray.name)
            assert len(names) == 1
            assert not serve.list_backends()
            serve.create_backend("b", lambda request: number)
            serve.create_endpoint("e", backend="b")
            assert serve.get_handle("e").call() == number
        """
    )
    runs.runpytest_subprocess("-q").assert_outcomes(passed=2)
