"""Owns which test runs each command that stands in a sentence or a comment, if no block that a test runs has it
with the same options, and why no test runs the others."""

_COMMAND = "tests/unit/lab/evaluation/test_command.py"
_DUPLICATES = "tests/unit/lab/duplicates/test_duplicates.py"
_DEPLOY = "tests/deploy/test_docs.py::test_the_commands_of_sentences_and_comments_run"
_MAKE = "tests/docs/test_make.py"
_BENCHMARKS = "tests/docs/test_benchmarks.py::test_a_benchmark_prints_its_figures"

TESTED: dict[str, str] = {
    "python -m coordinator": "tests/conftest.py::coordinator_process",
    "python -m coordinator --config FILE --process 1": "tests/cluster/test_processes.py::coordinator_error",
    "python -m shard --partition N": (
        "tests/faults/test_full_disk.py::test_a_full_disk_refuses_writes_and_loses_none"
    ),
    "python -m shard --config FILE --partition 2 --replica 0": "tests/chaos/cluster.py::start",
    "python -m encoder": "tests/cluster/test_encoders.py::test_a_name_that_the_config_lacks_is_refused_at_start",
    "python -m encoder --name shoes": (
        "tests/cluster/test_encoders.py::test_a_name_that_the_config_lacks_is_refused_at_start"
    ),
    "lookalike collection hash NAME --output FILE": (
        "tests/cluster/test_encoder.py::test_a_collection_returns_its_fitted_hash"
    ),
    "lookalike collection create sneakers --encoder shoes": (
        "tests/cluster/test_encoders.py::test_command_and_rest_create_collections_with_an_encoder"
    ),
    "lookalike status --watch": "tests/cluster/test_cli.py::test_status_watch_restores_the_terminal",
    "lookalike status --json": "tests/cluster/test_cli.py::test_status_watch_shows_query_rate_and_latency",
    "lookalike set": "tests/cluster/test_cli.py::test_commands_count_list_and_change_records",
    "lookalike watch photos -c photos": "tests/cluster/test_sync.py::test_watch_runs_until_it_is_interrupted",
    "lookalike dedup -c photos --review --apply move:../away": (
        "tests/web/test_review.py::test_from_duplicates_to_worse_copies_moved_in_three_actions"
    ),
    "lookalike calibrate --plot": "tests/cluster/test_copies.py::test_calibrate_measures_each_edit_and_draws",
    "lookalike targets deploy/prometheus/targets.json --config lookalike.yaml --follow": (
        "tests/cluster/test_targets.py::test_a_new_shard_is_scraped"
    ),
    "lookalike bench --plots docs/benchmarks": f"{_MAKE}::test_bench_plots_in_the_documents",
    "lookalike fit --config": (
        "tests/unit/encoder/test_purpose.py::test_fit_makes_itq_unless_the_purpose_needs_no_hash_file"
    ),
    "lookalike train --objective classes": (
        "tests/unit/lab/test_training.py::test_tuning_to_classes_reads_no_queries"
    ),
    "lookalike train DATA --objective classes --epochs 3 --output tuned": (
        "tests/unit/lab/test_training.py::test_tuning_to_classes_reads_no_queries"
    ),
    "lookalike evaluate PICTURES --task duplicates": (
        f"{_DUPLICATES}::test_the_command_says_the_cost_first_prints_each_row_and_writes_only_where_told"
    ),
    "lookalike evaluate --task duplicates": (
        f"{_DUPLICATES}::test_the_command_says_the_cost_first_prints_each_row_and_writes_only_where_told"
    ),
    "lookalike evaluate DATA --methods lsh,centred,pca,itq,csq": f"{_COMMAND}::swept",
    "lookalike evaluate DATA --bits 256 --methods lsh,centred --hash other.npz --seeds 0,1,2,3": (
        f"{_COMMAND}::test_trained_hash_is_judged_and_a_foreign_one_skipped"
    ),
    "lookalike evaluate DATA --bits 64 --methods itq,csq --unseen 0.33 --seeds 0,1,2,3,4": (
        f"{_COMMAND}::test_unseen_classes_are_searched_alone"
    ),
    "lookalike evaluate DATA --bits 64,2048 --methods lsh,itq --layers map,pooled,classifier": (
        f"{_COMMAND}::test_layers_are_compared_in_a_table"
    ),
    "lookalike evaluate DATA --bits 64,128 --methods lsh,centred,itq,csq --cluster": (
        "tests/cluster/test_evaluation.py"
        "::test_a_cluster_gives_the_figures_of_the_local_scan_and_is_not_started_again"
    ),
    "make chaos": "tests/faults/test_chaos_short.py::test_a_short_chaos_run_finds_no_violation",
    "make bench": f"{_MAKE}::test_bench_plots_in_the_documents",
    "make manifests": f"{_MAKE}::test_manifests_are_those_in_the_repository",
    "make runbooks DOCS=URL": "tests/cluster/test_observe.py::test_the_documented_commands_work",
    "python -m benchmarks system": _BENCHMARKS,
    "python -m benchmarks system --seconds 4": _BENCHMARKS,
    "python -m benchmarks scroll --rows 1000000": _BENCHMARKS,
    "python -m benchmarks.gpu > gpu.jsonl": (
        "tests/unit/benchmarks/test_gpu.py::test_on_a_cpu_every_figure_is_printed_and_marked"
    ),
    "pip install .": "tests/packaging/test_wheel.py::clean_python",
    **dict.fromkeys(
        (
            "kubectl -n lookalike port-forward service/coordinator 7700 7780",
            "kubectl -n lookalike rollout restart deployment/encoder",
            "kubectl -n lookalike create job --from=cronjob/ingest ingest-now",
            "kubectl -n lookalike delete statefulset shard-r2",
            "kubectl get pods",
            "kubectl apply -k",
            "kubectl apply -k deploy/kubernetes/overlays/gpu",
            "docker compose up -d",
            "docker compose up -d --remove-orphans",
            "docker compose up -d --no-deps shard-r0-0 shard-r0-1 ...",
            "systemctl restart 'lookalike-shard@0-*'",
            "systemctl edit",
            "systemctl --failed",
        ),
        _DEPLOY,
    ),
}

# Documented commands that no test runs.
NOT_RUN: dict[str, str] = {
    "LOOKALIKE_REQUIRE_INDEX=1 pytest tests/packaging/test_python_versions.py": (
        "needs a package index; is itself a run of tests"
    ),
    "make check": "the target `test` runs it before the tests",
    "make docs": "the target `check` compares what it would write",
    "lookalike demo": "takes a minute; .ci/run calls `make demo` before the tests",
    "python -m benchmarks NAME [--images DIR]": "most take long; test_benchmarks.py runs four",
    "python -m benchmarks codes": "takes 12 s of processor time",
    "python -m benchmarks encoder --images DATA": "starts Ray",
    "python -m benchmarks duplicates --images DATA": "starts Ray",
    "python -m benchmarks fusion": "takes 23 s of processor time",
    "python -m benchmarks observe": "takes 18 s",
    "python -m benchmarks scale": "stores millions of rows",
    "python -m benchmarks scale --plots docs/benchmarks": "stores millions of rows",
    "python -m benchmarks search": "starts Ray",
    "lookalike evaluate DATA --weights tuned/weights.pth --bits 64,2048 --methods lsh,itq": (
        "needs the weights of a tuned network; test_command.py refuses a missing file"
    ),
    "lookalike evaluate DATA --task duplicates --same benchmarks/same_pictures.txt --bits 64,256,1024,2048"
    " --methods lsh,centred,itq": "needs Caltech-101; test_duplicates.py reads such a file",
    "ray up deploy/ray/cluster.yaml": "needs machines; test_machines.py has Ray read the file",
    "ray up": "needs machines; test_machines.py has Ray read the file",
    "ray get-auth-token --generate": "is Ray's own",
    "make setup && sudo deploy/images.sh": "needs root and a package index; .ci/images runs it",
    "buildah bud": "needs root and a package index; deploy/images.sh runs a cluster in the image",
    "pip install s3fs": "needs a package index",
    "pip install pdqhash": "needs a package index",
    'pip install "numba-cuda[cu13]"': "needs a package index and a GPU",
    "pip install '.[all]'": "needs a package index; `make setup` installs all extras",
    "pip install '.[server,batch]'": "needs a package index; `make setup` installs all extras",
    "pip install '.[tracing]'": "needs a package index; `make setup` installs all extras",
}
