"""The functions that start, join, fill and end an instance."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Unpack

from serve_bridge.client.client import Client, find_client
from serve_bridge.client.current import current_client, own_client, set_current, shut_down_current
from serve_bridge.config.deploy_options import DEPLOY_DEFAULTS, DeployOptions
from serve_bridge.config.signatures import shows_options
from serve_bridge.config.start_options import START_DEFAULTS, StartOptions

if TYPE_CHECKING:
    from serve_bridge.deployment.result import Deployment


@shows_options(StartOptions, START_DEFAULTS)
def start(**options: Unpack[StartOptions]) -> Client:
    """Start an instance: a controller, and the HTTP proxies of *http_options*.

    Args:
        options: Options of the instance:

            - detached (bool, default False): Let the instance outlive this process; `shutdown` ends it. Not with
              `runtime="local"`.
            - name (str, default "default"): Its name, unique for each cluster and user.
            - http_options (`HTTPOptions` or a dict, default: one proxy on 127.0.0.1:8000): Where proxies listen, and
              their limits.
            - address (str): The Ray cluster to join if this process does not use one yet. Default: the cluster that
              Ray's own rules find, otherwise a new local one. Not with `runtime="local"`.
            - runtime ("ray" or "local", default "ray"): "local" runs the instance inside this process, without Ray, for
              tests and development.
            - state (a directory or a bool, default None): Where the instance keeps its backends, endpoints and traffic,
              in a folder of its name. The next start of the name restores them. True: the user's state directory.
              False: nowhere. None: True for a detached instance, otherwise False.
            - fresh (bool, default False): Begin empty. A kept state is moved to the folder `before-fresh` beside it.
            - listen (str, such as "10.0.0.5:7000"): Where the controller listens for web workers on other hosts, and
              for other nodes. It is the same after a restart. Default: a free port, only where other nodes need it.
            - advertise (str, such as "engine.example.com:7000"): Where other hosts reach *listen*, if that differs.
            - data_ports (str, such as "7001-7050"): Ports for the replicas and proxies on each node. Default: free
              ports.
            - key_file (str): File with the instance's secret. It is made if it does not exist. Key files for the hosts
              of web workers are written beside it: NAME.forward.key, NAME.call.key and NAME.manage.key. Default: with
              *listen* or *detached*, a file in $XDG_STATE_HOME/serve_bridge/NAME or ~/.local/state/serve_bridge/NAME.
            - tls_cert (str): File with the certificate of the engine, in PEM form. With it, all TCP connections of the
              instance use TLS 1.3, and both ends need a certificate. The same paths are read on each node, and again
              after they have changed. Default: no encryption.
            - tls_key (str): File with the key of *tls_cert*.
            - tls_ca (str): File with the certificate of the authority that has signed the certificates of both ends.

    Returns:
        The client, which becomes the current client of this process. The proxy answers. Restored backends may still
        start: `/-/ready` tells when all of them have.

    Raises:
        TypeError: An option is unknown.
        ConfigError: An option has a bad value, a TLS file or a kept state cannot be used, an instance of that name
            runs, or gevent or eventlet has replaced the sockets of this process. It is a ValueError.
        OSError, ValueError: A proxy cannot listen on its address. Nothing is left running.
        AuthenticationError: The Ray cluster refuses the token of this process. It is a ConnectionError.
        ImportError: Ray, or a package of the proxy, is missing or has an untried version. The message names the extras
            to install.
    """
    from serve_bridge.client.instance_start import start_instance  # late: web workers join an instance

    client = start_instance(**options)
    set_current(client)
    return client


def connect(address: str | os.PathLike[str] | None = None, *, name: str = "default") -> Client:
    """Join a running instance. This process does not become a Ray driver.

    Args:
        address: The value of `client.address`. None: that of SERVE_BRIDGE_ADDRESS, otherwise this user's instance
            *name* on this machine.
        name: The instance's name, if no address is given.

    Returns:
        The client, which becomes the current client of this process. Inside a replica: a client of the replica's own
        instance.

    Raises:
        NotConnected: No instance runs. The message names all three places of the search.
        ConfigError: *address* is not an address, or gevent or eventlet has replaced the sockets of this process.
    """
    own = own_client()
    if own is not None and address is None:
        return own
    client = find_client(address, name)
    set_current(client)
    return client


def shutdown(forget: bool = True) -> None:
    """Drain and stop the whole instance, and remove every key and file that it made. A second call does nothing.

    Args:
        forget: Remove the kept state too. Otherwise the next start of the name restores it.

    Raises:
        ControlPlaneLost: Ray's control plane does not answer, so nothing was ended. Try again once it is back.
    """
    shut_down_current(forget=forget)


@shows_options(DeployOptions, DEPLOY_DEFAULTS)
def deploy(*modules_or_objects: object, client: Client | None = None, **options: Unpack[DeployOptions]) -> Deployment:
    """Make the instance match the declarations, by rolling updates. A second deployment changes nothing.

    Backends get their code and declared options, endpoints their route, HTTP methods and time limit. An option that is
    not declared stays as the operator set it. An option that is no longer declared returns to its default.

    Args:
        modules_or_objects: Modules, or their import paths "package.module"; or declared functions, classes and
            endpoints.
        client: The instance; None: the current one.
        options: Options of the deployment:

            - project (str, default: top package of the first declaration): The owner of the deployment. Names that
              another project deployed, or that were made by hand, are an error.
            - traffic (bool, default False): Let declared traffic and shadows replace those of existing endpoints.
              Otherwise they apply to new endpoints only, and the result has a note where they differ.
            - prune (bool, default False): Delete the backends and endpoints that this project deployed before and that
              *modules_or_objects* does not declare. The log of `serve_bridge.deployment` names them first. It never
              deletes what was made by hand.
            - force (bool, default False): Replace the replicas of every declared backend, changed or not.
            - dry_run (bool, default False): Change nothing. The result lists the planned changes.
            - take_over (bool, default False): Take over the declared names that another project, or a person, has made.

    Returns:
        The changes that were made.

    Raises:
        TypeError: An object is not declared, or an option is unknown.
        ConfigError: No object is named; a module declares nothing; declarations contradict each other; a name has
            another owner; or a new endpoint has several backends and no declared traffic. Nothing has changed.
        SerializationError: A declared object cannot be pickled. Nothing has changed.
        DeploymentError: A change failed. The error says which changes were made.
        NotConnected: No instance answers.
        InstanceClosed: The instance was shut down.
    """
    given = current_client() if client is None else client
    return given.deploy(*modules_or_objects, **options)
