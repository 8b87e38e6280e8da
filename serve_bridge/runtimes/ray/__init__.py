"""The Ray runtime: controller, replicas and proxies as detached actors. The only code that imports Ray.

Rule 1: Ray places, starts and ends processes; no request travels over it but those of `handle.remote`.
Rule 2: actors are detached, so that replicas outlive a controller that Ray restarts; they end because the instance ends
        them: at `shutdown`, or when the process that started a non-detached instance lets go of its lease.
Rule 3: engine actors ask for 0 CPUs and never restart but for the controller; tasks are never retried by Ray.
Rule 4: nothing is imported here, since an actor imports this package: a replica needs no controller, nor the other way.
"""

from serve_bridge.process.extras import require

require("runtime='ray'", ["ray"])
