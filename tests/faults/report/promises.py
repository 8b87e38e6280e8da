"""The promises of serve_bridge, and the tests that own them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Promise:
    """A promise.

    Attributes:
        text: What it says, for the page.
        tests: Its tests, as pytest takes them.
    """

    text: str
    tests: tuple[str, ...]


_CRASHES: Final = "tests/faults/test_crashes.py::test_"
_UPDATES: Final = "tests/faults/test_updates.py::test_"
_OVERLOAD: Final = "tests/faults/test_overload.py::test_"
_BUFFERS: Final = "tests/faults/test_buffers.py::test_"
_SIMULATION: Final = "tests/local/simulation/test_simulation.py::test_"
_REBOOTS: Final = "tests/nodes/test_reboots.py::test_"
_PEERS: Final = "tests/local/http_server/test_peers.py::test_"

PROMISES: Final[Mapping[str, Promise]] = {
    "P1": Promise(
        "A rolling update under load loses no request. After it has returned, the old version answers none.",
        (f"{_UPDATES}a_rolling_update_under_load_loses_nothing",),
    ),
    "P2": Promise(
        "A backend that shrinks and grows under load loses no request.",
        (f"{_UPDATES}scaling_down_and_up_under_load_loses_nothing",),
    ),
    "P3": Promise(
        "A failed update changes nothing: the old version serves on.",
        (f"{_UPDATES}a_failed_update_keeps_the_old_version",),
    ),
    "P4": Promise(
        "A restart of a web worker or of a draining proxy loses no request.",
        (
            "tests/e2e/test_servers.py::test_recycled_workers_lose_no_request",
            "tests/local/http_server/test_server.py::test_drain_serves_what_the_kernel_accepted",
            "tests/local/http_server/test_server.py::test_drain_serves_a_request_that_crosses_with_it",
        ),
    ),
    "P5": Promise(
        "A change of the traffic is atomic, and shadows survive it.",
        (f"{_UPDATES}a_storm_of_policies_loses_nothing_and_keeps_shadows",),
    ),
    "P6": Promise(
        "Traffic follows its weights. A shard key keeps its backend, and a new weight moves as few keys as possible.",
        ("tests/unit/test_traffic.py",),
    ),
    "P7": Promise(
        "Shadows that raise, are full or are deleted never hurt the primary backend.",
        (f"{_UPDATES}shadows_in_trouble_never_hurt_the_primary",),
    ),
    "P8": Promise("A bad option changes nothing.", (f"{_UPDATES}a_bad_config_changes_nothing",)),
    "P9": Promise(
        "A killed replica costs only the requests in flight there that may run once only. Each is a 502 `unknown`.",
        (f"{_CRASHES}a_killed_replica_loses_nothing_idempotent_and_runs_nothing_twice",),
    ),
    "P10": Promise(
        "A replica that hangs gets no new requests and is replaced.",
        (
            f"{_CRASHES}a_stopped_replica_is_left_out_and_replaced",
            f"{_CRASHES}a_stopped_replica_gets_nothing_new_after_a_few_seconds",
        ),
    ),
    "P11": Promise(
        "A killed controller costs no request, at any step of a change, and leaves no orphan.",
        (
            f"{_CRASHES}a_killed_controller_loses_nothing",
            f"{_CRASHES}a_controller_killed_at_any_step_of_an_update_loses_nothing",
            f"{_CRASHES}a_controller_killed_during_an_update_leaves_no_orphan",
        ),
    ),
    "P12": Promise(
        "While Ray's control plane is away, traffic continues.",
        (
            "tests/nodes/test_hosts.py::test_a_pause_of_rays_control_plane_ends_nothing",
            "tests/nodes/test_lost_gcs.py",
        ),
    ),
    "P13": Promise(
        "A crash loop is contained: the tries become rarer, and other backends serve.",
        (f"{_CRASHES}a_crash_loop_is_contained",),
    ),
    "P14": Promise(
        "Frames of strangers and mutated frames crash nothing, and nothing is unpickled.",
        ("tests/fuzz/test_replica.py", "tests/fuzz/test_wire.py"),
    ),
    "P15": Promise(
        "Random faults for a long time break no invariant.", (f"{_CRASHES}a_storm_of_faults_breaks_no_invariant",)
    ),
    "P16": Promise(
        "The control logic is right in any order of events: a simulation of controller, routers and replicas.",
        (
            f"{_SIMULATION}invariants_hold_whatever_happens",
            f"{_SIMULATION}changes_and_crashes_of_the_controller_lose_no_request",
            f"{_SIMULATION}a_known_fault_is_found",
        ),
    ),
    "P17": Promise(
        "A request that is not idempotent never runs twice.",
        (
            f"{_CRASHES}a_killed_replica_loses_nothing_idempotent_and_runs_nothing_twice",
            f"{_CRASHES}a_storm_of_faults_breaks_no_invariant",
        ),
    ),
    "P18": Promise("Retries have a budget.", ("tests/unit/routing/test_retry_budget.py",)),
    "P19": Promise(
        "Ten times the load that a backend can take: the excess is refused and was not started.",
        (f"{_OVERLOAD}what_is_too_much_is_refused_and_the_rest_served",),
    ),
    "P20": Promise(
        "No work is done for callers that have left, and their slots are free again.",
        (
            f"{_OVERLOAD}cancelled_calls_stop_and_waiting_ones_never_start",
            f"{_OVERLOAD}calls_cancelled_at_any_moment_leave_no_slot_behind",
            f"{_OVERLOAD}a_client_that_leaves_frees_its_slot",
        ),
    ),
    "P21": Promise(
        "A deadline ends the work, and what waits past it never starts.",
        (f"{_OVERLOAD}time_that_is_up_ends_the_work_and_what_waits_never_starts",),
    ),
    "P22": Promise(
        "A saturated or slow neighbour does not hold up other requests.",
        (
            "tests/faults/test_slow_clients.py::test_a_probe_is_answered_beside_slow_clients",
            "tests/local/wire/test_unread_answers.py",
        ),
    ),
    "P23": Promise(
        "A silent replica is left out, and half of the replicas always stay in use.",
        ("tests/local/routing/test_router.py", "tests/unit/routing/test_replica_set.py"),
    ),
    "P24": Promise(
        "A proxy holds no more bytes than its limit, and refuses bodies before it reads them.",
        (
            f"{_BUFFERS}more_bodies_than_there_is_room_for",
            f"{_BUFFERS}more_of_websockets_than_there_is_room_for",
            "tests/local/http_server/test_buffers.py",
        ),
    ),
    "P25": Promise(
        "Slow clients do not matter to others.",
        (
            "tests/faults/test_slow_clients.py",
            "tests/local/http_server/test_crowd.py",
            f"{_BUFFERS}an_idle_connection_takes_little_memory",
        ),
    ),
    "P26": Promise("Each limit of the HTTP server holds.", ("tests/local/http_server/test_server.py",)),
    "P27": Promise(
        "The HTTP server and a strict parser read the same requests.",
        (
            "tests/fuzz/test_framing.py::test_a_strict_parser_reads_the_same_requests",
            "tests/fuzz/test_framing.py::test_a_strict_parser_reads_the_same_mutated_requests",
        ),
    ),
    "P28": Promise(
        "Headers of strangers are not believed, and hop-by-hop headers stop at the proxy.",
        ("tests/local/http_server/test_requests.py", "tests/unit/http_server/test_trusted_peers.py"),
    ),
    "P29": Promise("No bytes of a client break the proxy.", ("tests/fuzz/test_edge.py",)),
    "P30": Promise(
        "WebSockets follow the protocol.",
        ("tests/fuzz/test_websocket.py", "tests/adapters/test_websocket_conformance.py"),
    ),
    "P31": Promise(
        "A connection proves its key before anything else is read.",
        ("tests/local/wire/test_wire.py", "tests/behaviour/test_roles.py"),
    ),
    "P32": Promise("Errors show nothing of the inside.", ("tests/behaviour/test_error_texts.py",)),
    "P33": Promise(
        "Memory and objects stay flat under resets, timeouts and exceptions.",
        ("tests/faults/test_leaks.py", "tests/faults/test_memory.py"),
    ),
    "P34": Promise(
        "Without a free descriptor, accepting pauses, and open connections are served.",
        (
            f"{_PEERS}more_clients_than_descriptors_wait",
            f"{_PEERS}without_a_descriptor_left_accepting_pauses",
            "tests/local/routing/test_shortage.py",
        ),
    ),
    "P35": Promise(
        "Ready means that each routed endpoint has a replica that answers.",
        ("tests/local/http_server/test_requests.py::test_live_and_ready_answer_for_the_proxy",),
    ),
    "P36": Promise(
        "An application behaves the same on its own server, through an adapter and through the proxy.",
        ("tests/behaviour/test_applications.py",),
    ),
    "P37": Promise(
        "A loop of the engine handles much input in several turns, and does not hold up others.",
        (
            "tests/local/wire/test_wire.py::test_a_read_of_many_frames_takes_several_turns_of_the_loop",
            "tests/local/wire/test_large_bodies.py::test_a_body_that_is_here_is_read_in_several_turns",
            "tests/local/http_server/test_server.py::test_clients_that_send_tiny_chunks_do_not_hold_up_others",
            "tests/unit/http_server/test_turns.py",
        ),
    ),
    "proxies": Promise(
        "A killed proxy is replaced where it was. Its port stays open: only requests on its own connections are lost.",
        (
            "tests/faults/test_proxy_kills.py",
            f"{_CRASHES}a_proxy_that_is_gone_comes_back_where_it_was",
        ),
    ),
    "clock": Promise(
        "A wall clock that jumps an hour forward and back costs no request.",
        ("tests/faults/test_environment.py::test_a_clock_that_jumps_costs_nothing",),
    ),
    "memory": Promise(
        "A replica that exceeds its memory limit fails one request, and serves the next.",
        ("tests/faults/test_environment.py::test_a_replica_at_its_memory_limit_serves_on",),
    ),
    "disk": Promise(
        "A full disk under the state directory changes nothing, and the last good state stays.",
        ("tests/faults/test_environment.py::test_a_full_disk_under_the_state_changes_nothing",),
    ),
    "nodes": Promise(
        "A node that is lost, or a cut link, ends nothing else.",
        (
            f"{_REBOOTS}a_worker_node_that_is_killed_and_joins_again_costs_only_its_own_requests",
            f"{_REBOOTS}a_head_that_reboots_costs_no_request",
            f"{_REBOOTS}a_head_that_reboots_without_redis_gets_all_back_by_one_start",
            "tests/nodes/test_links.py",
            "tests/nodes/test_moves.py",
            "tests/faults/test_vanished_hosts.py",
        ),
    ),
}
"""By number; five faults without a number follow."""
