#!/usr/bin/env bash
# Ray 2.60.0: `ray.init(include_dashboard=False, log_to_driver=False)` on one machine still starts dashboard.py, the
# autoscaler's monitor.py and log_monitor.py, some 50 to 110 MB of resident memory each. Expected: no process of a
# dashboard that was declined, none that forwards logs nobody wants, and no autoscaler for a cluster that cannot grow.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0 psutil==7.2.2
"$folder/venv/bin/python" - <<'PY'
import time

import psutil
import ray

ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=1)
time.sleep(3)
found = {}
for child in psutil.Process().children(recursive=True):
    for name in ("dashboard.py", "monitor.py", "log_monitor.py"):
        if any(part.endswith("/" + name) for part in child.cmdline()):
            found[name] = round(child.memory_info().rss / 1e6)
print(f"Ray {ray.__version__}: resident MB of what was not asked for: {found}")
ray.shutdown()
assert found.keys() == {"dashboard.py", "monitor.py", "log_monitor.py"}, found
PY
