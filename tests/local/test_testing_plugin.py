"""The pytest plug-in: its fixtures, in runs of pytest of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

LOCAL = """
    import serve_bridge as serve
    from serve_bridge.api import current_client

    def test_one(serve_bridge_local):
        assert current_client() is serve_bridge_local
        serve.create_backend("b", lambda request: "hello")
        serve.create_endpoint("e", backend="b", route="/e")
        assert serve.get_handle("e").call() == "hello"
"""


@pytest.fixture
def runs(pytester: pytest.Pytester, runtime_directory: Path) -> pytest.Pytester:
    """Runs pytest as a user does: the plug-in is found by its entry point."""
    pytester.makeini("[pytest]\naddopts = -p no:django -p no:randomly -p no:cacheprovider --strict-markers\n")
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
        from serve_bridge.api import current_client

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

        seen = []

        def test_failing(serve_bridge_local):
            seen.append(serve_bridge_local)
            assert False

        def test_ending(serve_bridge_local):
            seen.append(serve_bridge_local)
            serve.shutdown()

        def test_after():
            assert len(seen) == 2
            assert [client.is_owner() for client in seen] == [False, False]
        """
    )
    runs.runpytest_subprocess("-q").assert_outcomes(passed=2, failed=1)


def test_runs_beside_each_other_do_not_meet(runs: pytest.Pytester) -> None:
    """As those of pytest-xdist: every name and port is unique."""
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


def test_what_needs_ray_has_its_marker(runs: pytest.Pytester) -> None:
    """So that a run may leave it out."""
    runs.makepyfile("def test_one(serve_bridge_ray): ...\n\ndef test_two(): ...\n")
    runs.runpytest_subprocess("-q", "-m", "not serve_bridge_ray").assert_outcomes(passed=1, deselected=1)


@pytest.mark.ray
def test_a_run_has_one_instance_on_ray(runs: pytest.Pytester) -> None:
    """What a test makes in it ends with the test."""
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
