"""A Ray cluster of three machines that are processes here: `python ray_cluster.py` says where its head is, and removes
the machine whose id it is told."""

import json
import sys

from ray.cluster_utils import Cluster

MACHINE = {
    "node_ip_address": "127.0.0.1",
    "num_cpus": 2,
    "resources": {"large": 1},
    "include_dashboard": False,
    "object_store_memory": 80 * 2**20,
}
"""Room for one target and two drafters."""


def main() -> None:
    """Start the machines; obey until stdin ends."""
    cluster = Cluster(initialize_head=True, head_node_args=MACHINE)
    others = [cluster.add_node(**MACHINE) for _ in range(2)]
    cluster.wait_for_nodes()
    say(address=cluster.address, head=cluster.head_node.node_id)
    for line in sys.stdin:
        (machine,) = (node for node in others if node.node_id == line.strip())
        cluster.remove_node(machine, allow_graceful=False)
        say(removed=machine.node_id)
    cluster.shutdown()


def say(**what: str) -> None:
    """One line of JSON for whoever started this."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
