#!/usr/bin/env bash
# Installs Slurm (as root), submitit and Ray, and runs tests/test_cluster.py with the Python that is given.
# Packages of Python go to build/cluster, so the environment of the other tests stays as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 packages=build/cluster
if [ ! -d "$packages/ray" ] || [ ! -d "$packages/submitit" ]; then
	"$python" -m pip install --quiet --target "$packages" -c constraints.txt "ray>=2.9" "submitit>=1.5.2" ||
		{ echo "skipped: ray and submitit cannot be installed"; exit 0; }
fi
if ! command -v slurmctld > /dev/null && command -v apt-get > /dev/null && [ "$(id -u)" -eq 0 ]; then
	(apt-get update -qq && apt-get install -qq -y --no-install-recommends slurmctld slurmd slurm-client munge) > /dev/null ||
		echo "Slurm cannot be installed; its test is skipped"
fi
PYTHONPATH="$PWD/src:$PWD/$packages" NANOBENCH_TEST_CLUSTER=1 exec "$python" -m pytest tests/test_cluster.py
