"""Options: what they accept, what they refuse, and what an update changes."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.middleware import Middleware

from serve_bridge.config import checks
from serve_bridge.config.actor_options import check_ray_actor_options
from serve_bridge.config.backend_config import BackendConfig, BackendOptions
from serve_bridge.config.http_options import HTTPOptions, Location
from serve_bridge.config.names import check_name
from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown

NO_WHOLE_NUMBERS = [0, -1, 1.0, 1.5, "2", True, 10**9, 10**5000, math.nan, math.inf, [2]]
NO_SECONDS = [-1, -0.001, math.nan, math.inf, "1", True, 10**400, 1e12, 1j]
WHOLE = ["num_replicas", "max_concurrent_queries", "max_batch_size", "threads"]
SECONDS = [
    "batch_wait_timeout",
    "graceful_shutdown_timeout_s",
    "health_check_period_s",
    "health_check_timeout_s",
    "start_timeout_s",
]


def type_of(value: object) -> str:
    """Name a parameter by its type and a short text."""
    return f"{type(value).__name__}-{shown(value):.20}"


class TestBackendConfig:
    """How one backend runs."""

    def test_the_defaults_are_those_of_the_contract(self) -> None:
        """Changing one of them changes everybody's service."""
        config = BackendConfig()
        assert (config.num_replicas, config.max_concurrent_queries, config.max_batch_size) == (1, None, None)
        assert (config.batch_wait_timeout, config.graceful_shutdown_timeout_s) == (0.0, 20.0)
        assert (config.start_timeout_s, config.max_queued_queries, config.threads) == (60.0, 1000, 1)
        assert (config.user_config, config.exposed_methods) == (None, None)
        assert (config.max_surge, config.max_unavailable) == (None, 0)

    @pytest.mark.parametrize(
        ("base", "update"),
        [
            ({}, {"max_surge": 0, "max_unavailable": 0}),
            ({}, {"max_surge": 0}),
            ({"max_surge": 0, "max_unavailable": 1}, {"max_unavailable": 0}),
        ],
    )
    def test_an_update_needs_room(self, base: Any, update: Any) -> None:
        """The limits count together, also after a merge."""
        with pytest.raises(ConfigError, match="leave no room"):
            BackendConfig(**base).merged(update)

    def test_one_limit_of_the_room_may_change_alone(self) -> None:
        """An update of options need not repeat the other limit."""
        config = BackendConfig(max_unavailable=1).merged({"max_surge": 0})
        assert (config.max_surge, config.max_unavailable) == (0, 1)

    @pytest.mark.parametrize("name", WHOLE)
    @pytest.mark.parametrize("value", NO_WHOLE_NUMBERS, ids=type_of)
    def test_what_is_no_whole_number_in_range_is_refused(self, name: str, value: Any) -> None:
        """Nothing is rounded, parsed or counted as 1, and the message names the option."""
        with pytest.raises(ConfigError, match=name):
            BackendConfig(**{name: value})

    def test_no_replicas_at_all_are_refused(self) -> None:
        """None is the default of other options, not of this one."""
        with pytest.raises(ConfigError):
            BackendConfig(num_replicas=None)  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", SECONDS)
    @pytest.mark.parametrize("value", NO_SECONDS, ids=type_of)
    def test_what_is_no_time_is_refused(self, name: str, value: Any) -> None:
        """A time that a timer cannot hold is none either."""
        with pytest.raises(ConfigError, match=name):
            BackendConfig(**{name: value})

    @pytest.mark.parametrize("name", ["health_check_period_s", "health_check_timeout_s", "start_timeout_s"])
    def test_a_period_or_a_limit_of_0_is_refused(self, name: str) -> None:
        """It would fail every probe, or every start."""
        with pytest.raises(ConfigError, match=name):
            BackendConfig(**{name: 0})  # type: ignore[arg-type]

    @pytest.mark.parametrize("value", [-1, math.nan, 1.0, True, None], ids=repr)
    def test_a_waiting_line_without_an_end_is_refused(self, value: Any) -> None:
        """-1 means "unlimited" elsewhere; here every queue is bounded."""
        with pytest.raises(ConfigError, match="max_queued_queries"):
            BackendConfig(max_queued_queries=value)

    @pytest.mark.parametrize("value", ["predict", ["_hidden"], ["__init__"], ["a b"], [1], 5, {"a": 1}], ids=repr)
    def test_exposed_methods_are_a_list_of_public_names(self, value: Any) -> None:
        """A str is an iterable of letters, and a name with an underscore is private."""
        with pytest.raises(ConfigError, match="exposed_methods"):
            BackendConfig(exposed_methods=value)

    def test_exposed_methods_are_stored_as_a_tuple(self) -> None:
        """A list that its owner changes later does not change the config."""
        assert BackendConfig(exposed_methods=["predict", "train", "predict"]).exposed_methods == (
            "predict",
            "train",
        )

    def test_an_unknown_option_is_told_the_nearest_one(self) -> None:
        """The commonest mistake is a missing letter."""
        with pytest.raises(ValueError, match="no option 'num_replica'; did you mean 'num_replicas'"):
            BackendConfig.of({"num_replica": 2})
        with pytest.raises(ValueError, match="no option 'num_replica'; did you mean 'num_replicas'"):
            BackendConfig(num_replica=2)  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="no option 'prot'; did you mean 'port'"):
            HTTPOptions(prot=1)  # type: ignore[call-arg]

    @pytest.mark.parametrize("key", [1, None, ("num_replicas",), "zzz"], ids=repr)
    def test_a_key_that_is_near_nothing_is_refused_without_a_guess(self, key: Any) -> None:
        """A key of another type is an unknown one."""
        with pytest.raises(ConfigError, match=r"has no option [^;]*$"):
            BackendConfig.of({key: 2})

    @pytest.mark.parametrize("value", [5, "num_replicas=2", [("num_replicas", 2)], BackendConfig], ids=repr)
    def test_what_is_no_config_is_a_type_error(self, value: Any) -> None:
        """A wrong container is no bad value."""
        with pytest.raises(TypeError):
            BackendConfig.of(value)

    def test_nothing_stands_for_all_defaults(self) -> None:
        """`config=None` is what a caller who wants none passes."""
        assert BackendConfig.of(None) == BackendConfig()
        assert BackendConfig.of(None).given == frozenset()

    def test_a_config_cannot_be_changed(self) -> None:
        """It was checked when it was built, and stays what it was."""
        with pytest.raises(AttributeError):
            BackendConfig().num_replicas = 0  # type: ignore[misc]

    def test_an_update_changes_only_what_was_given(self) -> None:
        """A default that was not passed is no wish."""
        config = BackendConfig(num_replicas=3, threads=2).merged(BackendConfig(threads=4))
        assert (config.num_replicas, config.threads) == (3, 4)

    def test_an_update_to_a_default_counts_if_it_was_given(self) -> None:
        """Passing 1 is not the same as passing nothing."""
        assert BackendConfig(num_replicas=3).merged({"num_replicas": 1}).num_replicas == 1

    def test_a_config_knows_all_that_was_ever_given(self) -> None:
        """So that updates add up."""
        config = BackendConfig(num_replicas=3).merged({"threads": 4})
        assert config.given == {"num_replicas", "threads"}

    @pytest.mark.parametrize(
        ("update", "error"), [({"thread": 2}, ConfigError), ({"threads": 0}, ConfigError), (None, TypeError)]
    )
    def test_a_bad_update_is_refused(self, update: Any, error: type[Exception]) -> None:
        """An update is checked as a config is."""
        with pytest.raises(error):
            BackendConfig().merged(update)

    def test_what_was_given_is_no_part_of_equality(self) -> None:
        """Two configs that mean the same are the same."""
        assert BackendConfig(num_replicas=1) == BackendConfig()

    @pytest.mark.parametrize(("is_async", "limit"), [(False, 8), (True, 100)])
    def test_the_limit_of_a_replica_depends_on_its_code(self, is_async: bool, limit: int) -> None:
        """`def` code holds a thread, `async def` code does not."""
        assert BackendConfig().resolved(is_async).max_concurrent_queries == limit

    def test_a_limit_that_was_set_stays(self) -> None:
        """Resolving fills in, and overrides nothing."""
        assert BackendConfig(max_concurrent_queries=3).resolved(is_async=True).max_concurrent_queries == 3

    def test_a_resolved_limit_does_not_count_as_given(self) -> None:
        """Else `async def` code would keep the limit of the `def` code that it replaces."""
        assert BackendConfig(threads=2).resolved(is_async=False).given == {"threads"}

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "num_replicas": st.integers(1, 10_000),
                "threads": st.integers(1, 100),
                "max_batch_size": st.none() | st.integers(1, 100),
                "batch_wait_timeout": st.floats(0, 60),
                "user_config": st.dictionaries(st.text(), st.integers()),
            },
        )
    )
    def test_a_config_and_what_was_given_travel(self, options: dict[str, Any]) -> None:
        """By pickle and by copy."""
        config = BackendConfig.of(options)
        for other in (pickle.loads(pickle.dumps(config)), copy.copy(config), copy.deepcopy(config)):
            assert other == config
            assert other.given == set(options)


class TestHTTPOptions:
    """Where the proxy listens and what it bears."""

    def test_the_defaults_are_those_of_the_contract(self) -> None:
        """Loopback, port 8000, and finite limits."""
        options = HTTPOptions()
        assert (options.host, options.port, options.location) == ("127.0.0.1", 8000, Location.HeadOnly)
        assert (options.max_request_line_bytes, options.max_header_bytes) == (8192, 65536)
        assert (options.max_headers, options.max_body_bytes, options.max_buffered_bytes) == (100, 16 * 2**20, 2**30)
        assert (options.header_timeout_s, options.body_timeout_s, options.write_timeout_s) == (10, 10, 30)
        assert (options.request_timeout_s, options.trusted_proxies, options.debug) == (60, (), False)

    @pytest.mark.parametrize("member", Location)
    def test_a_location_equals_its_string(self, member: Location) -> None:
        """Either may be passed, and a `Location` is stored."""
        assert HTTPOptions(location=member.value).location is member
        assert member == str(member) == member.name

    @pytest.mark.parametrize("options", [{"host": None}, {"location": None}, {"host": None, "debug": True}])
    def test_no_host_or_no_location_means_no_server(self, options: dict[str, Any]) -> None:
        """Handles and adapters still work then."""
        assert HTTPOptions(**options).location is Location.NoServer

    @pytest.mark.parametrize("location", ["headonly", "HeadOnl", "", 1, True, ["HeadOnly"]], ids=repr)
    def test_another_location_is_refused(self, location: Any) -> None:
        """The message lists the three there are."""
        with pytest.raises(ConfigError, match="HeadOnly, EveryNode, NoServer"):
            HTTPOptions(location=location)

    def test_an_unknown_option_is_told_the_nearest_one(self) -> None:
        """As with a backend's options."""
        with pytest.raises(ValueError, match="did you mean 'middlewares'"):
            HTTPOptions.of({"middleware": []})

    @pytest.mark.parametrize("value", [5, "host=x", [("port", 1)]], ids=repr)
    def test_what_is_no_options_is_a_type_error(self, value: Any) -> None:
        """A wrong container is no bad value."""
        with pytest.raises(TypeError):
            HTTPOptions.of(value)

    def test_options_pass_through(self) -> None:
        """Options that were built are taken as they are."""
        options = HTTPOptions(port=0)
        assert HTTPOptions.of(options) is options
        assert HTTPOptions.of({"port": 0}) == options

    @pytest.mark.parametrize("port", [65_536, -1, "80", 80.0, True, None, 10**5000], ids=type_of)
    def test_a_bad_port_is_refused_with_its_host(self, port: Any) -> None:
        """Host and port are looked for together."""
        with pytest.raises(ConfigError, match=r"localhost:.*port must be an int from 0 to 65535"):
            HTTPOptions(host="localhost", port=port)

    @pytest.mark.parametrize("host", ["", " ", "a b", "http://x", "a\0b", "a\nb", "x" * 300, 5, b"::1"], ids=type_of)
    def test_a_bad_host_is_refused_with_its_port(self, host: Any) -> None:
        """Only its form is judged; whether it exists is found out by binding."""
        with pytest.raises(ConfigError, match=r"(?s):8123: host must be a name or an address"):
            HTTPOptions(host=host, port=8123)

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"])
    def test_debug_is_for_loopback(self, host: str) -> None:
        """Tracebacks stay on the machine."""
        assert HTTPOptions(host=host, debug=True).debug

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "localhost.example.org"])
    def test_debug_is_refused_off_loopback(self, host: str) -> None:
        """A name other than localhost may lead anywhere."""
        with pytest.raises(ConfigError, match="debug=True"):
            HTTPOptions(host=host, debug=True)

    def test_middlewares_are_stored_as_a_tuple(self) -> None:
        """In the order they were given in."""
        first, second = Middleware(object), Middleware(object)  # type: ignore[arg-type]
        assert HTTPOptions(middlewares=[first, second]).middlewares == (first, second)

    @pytest.mark.parametrize("value", [[object], [Middleware], ["x"], "x", {"x": 1}, 5, None], ids=repr)
    def test_what_is_no_middleware_is_refused(self, value: Any) -> None:
        """The class itself, without its wrapper, is the usual mistake."""
        with pytest.raises(ConfigError, match="middlewares"):
            HTTPOptions(middlewares=value)

    @pytest.mark.parametrize("value", ["10.0.0.1", ["example.org"], ["10.0.0.0/99"], [1], [None], [b"::1"]], ids=repr)
    def test_trusted_proxies_are_addresses_and_networks(self, value: Any) -> None:
        """A name could change its meaning; a bare int is no address."""
        with pytest.raises(ConfigError, match="trusted_proxies"):
            HTTPOptions(trusted_proxies=value)

    @pytest.mark.parametrize("option", ["allowed_hosts", "allowed_origins"])
    @pytest.mark.parametrize(
        "value",
        [
            "a",
            [],
            [""],
            ["http://a"],
            ["a:80"],
            ["a/b"],
            ["a b"],
            ["*."],
            ["*a"],
            ["a.*"],
            ["ä"],
            [1],
            [b"a"],
        ],
        ids=repr,
    )
    def test_what_is_no_host_is_refused(self, option: str, value: Any) -> None:
        """Scheme, port and path are the usual mistakes."""
        with pytest.raises(ConfigError, match=option):
            HTTPOptions(**{option: value})

    def test_allowed_hosts_are_stored_as_they_are_compared(self) -> None:
        """In lower case, without brackets and without a dot at the end."""
        given = ["Shop.Example.", "*.Example.org", ".example.net", "[::1]", "10.0.0.1", "*"]
        stored = ("shop.example", "*.example.org", ".example.net", "::1", "10.0.0.1", "*")
        assert HTTPOptions(allowed_hosts=given).allowed_hosts == stored

    def test_trusted_proxies_are_stored_as_a_tuple(self) -> None:
        """IPv4, IPv6 and networks of both."""
        assert HTTPOptions(trusted_proxies=["10.0.0.0/8", "::1"]).trusted_proxies == ("10.0.0.0/8", "::1")

    @pytest.mark.parametrize(
        "name", ["max_headers", "max_header_bytes", "max_connections", "max_body_bytes", "max_buffered_bytes"]
    )
    @pytest.mark.parametrize("value", [-1, 1.5, True, "1", None, math.inf], ids=repr)
    def test_a_bad_limit_is_refused(self, name: str, value: Any) -> None:
        """There is no way to ask for "unlimited"."""
        with pytest.raises(ConfigError, match=name):
            HTTPOptions(**{name: value})

    @pytest.mark.parametrize("name", ["header_timeout_s", "write_timeout_s", "request_timeout_s"])
    @pytest.mark.parametrize("value", [0, *NO_SECONDS, None], ids=type_of)
    def test_a_bad_time_is_refused(self, name: str, value: Any) -> None:
        """Every time is finite and above 0."""
        with pytest.raises(ConfigError, match=name):
            HTTPOptions(**{name: value})

    @pytest.mark.parametrize("value", [1, 0, None, "yes"], ids=repr)
    def test_debug_is_true_or_false(self, value: Any) -> None:
        """Nothing else switches it on."""
        with pytest.raises(ConfigError, match="debug"):
            HTTPOptions(debug=value)


class TestNames:
    """What an endpoint, a backend or an instance may be called."""

    @pytest.mark.parametrize("name", ["my_endpoint", "digits:v2", "a-b.c", "_x", "7", "A" * 128])
    def test_a_name_from_the_alphabet_is_returned(self, name: str) -> None:
        """Names in use today stay possible."""
        assert check_name("endpoint", name) == name

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "\0",
            "a\0b",
            "a/b",
            "a#b",
            "a b",
            "a\n",
            "😀",
            "é",
            "٣",
            "-a",
            ".a",
            ":a",
            "A" * 129,
            "A" * 10_240,
        ],
        ids=type_of,
    )
    def test_another_name_is_refused(self, name: str) -> None:
        """A ValueError that says which characters there are."""
        with pytest.raises(ConfigError, match="endpoint name must be 1 to 128 characters"):
            check_name("endpoint", name)

    @pytest.mark.parametrize("name", [None, 5, b"digits", ["digits"], True], ids=repr)
    def test_what_is_no_str_is_a_type_error(self, name: Any) -> None:
        """Whatever its text would be."""
        with pytest.raises(TypeError, match="backend name"):
            check_name("backend", name)

    @given(st.text())
    def test_an_accepted_name_needs_no_quoting(self, name: str) -> None:
        """It is ASCII, on one line, and no option of a command."""
        try:
            check_name("instance", name)
        except ConfigError:
            return
        assert name.isascii()
        assert name.isprintable()
        assert not name.startswith("-")


class TestRayActorOptions:
    """What may be asked of the actor behind a replica."""

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"num_cpus": 0},
            {"num_gpus": 0.5, "memory": 2**30},
            {"resources": {"tpu": 1}},
            {"num_cpus": None},
        ],
        ids=repr,
    )
    def test_resources_pass(self, options: dict[str, Any]) -> None:
        """And come back as a copy."""
        checked = check_ray_actor_options(options)
        assert checked == options
        assert checked is not options

    def test_none_stands_for_no_options(self) -> None:
        """It is the default of `create_backend`."""
        assert check_ray_actor_options(None) == {}

    @pytest.mark.parametrize("options", [5, "num_cpus=1", [("num_cpus", 1)], {1: 2}], ids=repr)
    def test_what_is_no_dict_of_options_is_a_type_error(self, options: Any) -> None:
        """A wrong container is no bad value."""
        with pytest.raises(TypeError):
            check_ray_actor_options(options)

    @pytest.mark.parametrize(
        "name",
        [
            "name",
            "lifetime",
            "max_restarts",
            "max_task_retries",
            "placement_group",
            "max_concurrency",
            "namespace",
        ],
    )
    def test_what_the_engine_owns_is_refused(self, name: str) -> None:
        """Even as None: the option is not the user's at all."""
        with pytest.raises(ConfigError, match=f"'{name}': the engine owns it"):
            check_ray_actor_options({name: None})

    @pytest.mark.parametrize("strategy", [None, "DEFAULT", "SPREAD"], ids=repr)
    def test_a_scheduling_strategy_of_ray_passes(self, strategy: Any) -> None:
        """The names; tests/nodes places replicas by an object."""
        options = {"scheduling_strategy": strategy}
        assert check_ray_actor_options(options) == options

    @pytest.mark.parametrize(
        ("strategy", "kind", "message"),
        [
            ("SPRAED", ConfigError, "did you mean 'SPREAD'"),
            ("spread", ConfigError, "'DEFAULT' or 'SPREAD'"),
            ({"node": 1}, TypeError, "an object of ray.util.scheduling_strategies"),
            (5, TypeError, "got 5"),
        ],
        ids=repr,
    )
    def test_another_scheduling_strategy_is_refused(self, strategy: Any, kind: type[Exception], message: str) -> None:
        """Before a replica starts; Ray itself would refuse it only then."""
        with pytest.raises(kind, match=message):
            check_ray_actor_options({"scheduling_strategy": strategy})

    @pytest.mark.parametrize("name", ["num_cpus", "num_gpus", "memory", "object_store_memory"])
    @pytest.mark.parametrize("value", ["1", True, [1], 1j], ids=repr)
    def test_a_resource_that_is_no_number_is_a_type_error(self, name: str, value: Any) -> None:
        """The contract says TypeError here."""
        with pytest.raises(TypeError, match=name):
            check_ray_actor_options({name: value})

    @pytest.mark.parametrize("value", [-1, -0.5, math.nan, math.inf], ids=repr)
    def test_a_resource_that_cannot_be_is_a_value_error(self, value: float) -> None:
        """Negative or without end."""
        with pytest.raises(ConfigError, match="num_cpus"):
            check_ray_actor_options({"num_cpus": value})

    @pytest.mark.parametrize("resources", [5, ["tpu"], {1: 1}, {"tpu": "1"}, {"tpu": True}, {"tpu": None}], ids=repr)
    def test_custom_resources_are_amounts_by_name(self, resources: Any) -> None:
        """A wrong type is a TypeError, inside as well."""
        with pytest.raises(TypeError, match="resources"):
            check_ray_actor_options({"resources": resources})

    @pytest.mark.parametrize("resources", [{"tpu": -1}, {"tpu": math.nan}, {"CPU": 1}, {"GPU": 1}], ids=repr)
    def test_custom_resources_are_positive_and_not_rays_own(self, resources: Any) -> None:
        """CPUs and GPUs have options of their own."""
        with pytest.raises(ConfigError, match="resources"):
            check_ray_actor_options({"resources": resources})


def test_the_typed_options_are_those_of_the_config() -> None:
    """Type checkers and the config itself know the same names and types."""
    assert get_type_hints(BackendOptions) == get_type_hints(BackendConfig)


@pytest.mark.parametrize("value", ["/run/default.json", Path("/run/default.json")])
def test_an_address_may_be_a_path(value: object) -> None:
    """It is stored as a str."""
    assert checks.path_text("address", value) == "/run/default.json"


def test_an_address_of_another_type_is_refused() -> None:
    """The error names the option."""
    with pytest.raises(TypeError, match="address must be a str, got 5"):
        checks.path_text("address", 5)
