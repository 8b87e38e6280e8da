"""The Ray runtime: controller, replicas and proxies as detached actors. The only code that imports Ray.

Rule 1: Ray places, starts and ends processes. Only the requests of `handle.remote` travel over it.
Rule 2: actors are detached, so replicas outlive a controller during its restart. The controller ends them at
    `shutdown`, or when a non-detached instance has lost the lease of its starter.
Rule 3: the actors of serve_bridge itself ask for 0 CPUs. Ray restarts only the controller, and retries no call.
Rule 4: nothing is imported here, because every actor imports this package. A replica needs no code of the controller,
    and the controller none of replicas.
"""

from serve_bridge.process.extras import require

require("runtime='ray'", ["ray"])
