"""Two nodes of Ray on this machine, of one core each, until standard input ends; its first line says where they are."""

from __future__ import annotations

import json
import os
import sys

if __name__ == "__main__":
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.head_node, cluster.add_node(num_cpus=1)]
    pids = [[one.process.pid for some in node.all_processes.values() for one in some] for node in nodes]
    print(json.dumps({"address": cluster.address, "head": pids[0], "node": pids[1]}), flush=True)
    sys.stdin.read()
    cluster.shutdown()
