#!/usr/bin/env bash
# One would guess: with `pytest -n 2 --dist loadgroup`, tests that share an xdist_group mark run on one worker, whatever
# the version of pytest, since pytest-xdist 3.8.0 declares pytest>=7.0.0 and pip installs it next to pytest 9.2.0.
# What happens: with pytest 8.4.2 they do. With pytest 9.2.0 the mark has no effect and nothing says so: the group's
# tests are spread over both workers, and a fixture of the group is set up once on each. xdist appends "@group" to
# Item._nodeid, and Item.nodeid no longer reads that attribute. `--dist loadscope` (by module) works with both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

cat > test_group.py <<'PY'
import os
import time

import pytest

pytestmark = pytest.mark.xdist_group("one")


@pytest.mark.parametrize("number", range(12))
def test_member(number):
    time.sleep(0.1)
    with open("workers.txt", "a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\n")
PY

workers() {  # PYTHON DIST: the number of workers that ran members of the group
    rm -f workers.txt
    "$1" -m pytest -q -p no:cacheprovider -n 2 --dist "$2" test_group.py > output.txt || { cat output.txt; exit 1; }
    sort -u workers.txt | wc -l
}

for version in 8.4.2 9.2.0; do
    python3 -m venv "venv-$version"
    "venv-$version/bin/pip" install --quiet --disable-pip-version-check "pytest==$version" pytest-xdist==3.8.0
    python="$folder/venv-$version/bin/python"
    group=$(workers "$python" loadgroup)
    scope=$(workers "$python" loadscope)
    echo "pytest $version, pytest-xdist 3.8.0: workers for one group: loadgroup $group, loadscope $scope"
    case $version in
        8.4.2) expected="1 1" ;;
        9.2.0) expected="2 1" ;;
    esac
    if [ "$group $scope" != "$expected" ]; then
        echo "changed: expected $expected" >&2
        exit 1
    fi
done
echo "as described"
