#!/usr/bin/env bash
# One would guess: a Histogram of prometheus_client that observes one NaN (a mean over nothing, say) counts it in the
# bucket +Inf, which takes everything, and the next observations are summed as before.
# What happens (prometheus_client 0.26.0): NaN is below no bound, not even infinity, so no bucket and no count changes:
# nothing shows that it was observed. But it is added to the sum, which is NaN from then on, until the process ends, and
# with it each mean, rate(sum) / rate(count). A Summary counts it, and its sum is NaN too. The text format writes the
# NaN, and the client's own parser reads it without a complaint.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check prometheus_client==0.26.0
venv/bin/python - <<'P'
import importlib.metadata
import math

from prometheus_client import CollectorRegistry, Histogram, Summary, generate_latest
from prometheus_client.parser import text_string_to_metric_families

print("prometheus_client", importlib.metadata.version("prometheus_client"))
registry = CollectorRegistry()
histogram = Histogram("seconds", "A histogram.", buckets=(1, 2), registry=registry)
summary = Summary("bytes", "A summary.", registry=registry)


def read():
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        sample.name + sample.labels.get("le", ""): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


for value in (0.5, math.nan, 1.5, 9.0):
    histogram.observe(value)
    summary.observe(value)
    print("after", value, read())
values = read()
assert (values["seconds_bucket+Inf"], values["seconds_count"], values["bytes_count"]) == (3, 3, 4)
assert math.isnan(values["seconds_sum"]) and math.isnan(values["bytes_sum"])
P
