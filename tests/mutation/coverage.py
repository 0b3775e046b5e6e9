"""Which tests look at which file of the engine and the methods, cheapest first."""

from __future__ import annotations

ENGINE = "nnsight_et/engine"
METHODS = "nnsight_et/interventions"
TESTS: dict[str, tuple[str, ...]] = {
    f"{ENGINE}/budget.py": ("engine/test_engine.py", "engine/test_work_counts.py"),
    f"{ENGINE}/capture.py": (
        "engine/test_engine.py", "interventions/test_ablation.py", "interventions/test_activation_patching.py", "methods/test_cmap.py", "interventions/test_path_patching.py",
        "engine/test_work_counts.py",
    ),
    f"{ENGINE}/one_token.py": ("interventions/test_path_patching.py", "engine/test_work_counts.py"),
    f"{ENGINE}/paths.py": ("interventions/test_path_patching.py", "interventions/test_mlp_paths.py"),
    f"{ENGINE}/readout.py": ("engine/test_engine.py", "interventions/test_ablation.py", "interventions/test_activation_patching.py", "interventions/test_knockout.py"),
    f"{ENGINE}/reference.py": (
        "engine/test_engine.py", "interventions/test_ablation.py", "interventions/test_activation_patching.py", "interventions/test_knockout.py",
        "interventions/test_path_patching.py",
    ),
    f"{ENGINE}/shared_runs.py": ("engine/test_shared_runs.py",),
    f"{ENGINE}/suffix.py": (
        "engine/test_engine.py", "interventions/test_ablation.py", "interventions/test_activation_patching.py", "measuring/test_self_check.py", "methods/test_dcm.py",
        "interventions/test_path_patching.py", "engine/test_work_counts.py",
    ),
    f"{METHODS}/ablation.py": (
        "interventions/test_ablation.py", "methods/test_completeness.py", "engine/test_engines_apart.py", "methods/test_minimality.py",
        "methods/test_method_edges.py",
    ),
    f"{METHODS}/activation_patching.py": (
        "interventions/test_activation_patching.py", "methods/test_cmap.py", "interventions/test_attribution.py", "methods/test_method_edges.py",
    ),
    f"{METHODS}/attention_patterns.py": ("interventions/test_attention_patterns.py", "engine/test_engines_apart.py"),
    f"{METHODS}/attribution.py": ("interventions/test_attribution.py", "engine/test_engines_apart.py"),
    f"{METHODS}/cmap.py": ("methods/test_cmap.py", "engine/test_engines_apart.py", "methods/test_method_edges.py"),
    f"{METHODS}/dcm.py": ("methods/test_dcm.py", "interventions/test_attribution.py", "methods/test_method_edges.py", "engine/test_work_counts.py"),
    f"{METHODS}/engine_checks.py": ("measuring/test_self_check.py", "measuring/test_method_checks.py"),
    f"{METHODS}/method_checks.py": ("measuring/test_method_checks.py",),
    f"{METHODS}/knockout.py": ("interventions/test_knockout.py", "engine/test_engines_apart.py"),
    f"{METHODS}/path_patching.py": ("interventions/test_path_patching.py", "engine/test_engines_apart.py", "engine/test_work_counts.py"),
    f"{METHODS}/answers.py": ("measuring/test_probe.py",),
    f"{METHODS}/calls.py": ("measuring/test_memory.py", "engine/test_devices.py", "methods/test_jobs.py"),
    f"{METHODS}/probes.py": ("interventions/test_probes.py", "methods/test_discovery.py"),
    f"{METHODS}/screened_paths.py": ("interventions/test_screened_paths.py", "interventions/test_several_tokens.py"),
    f"{METHODS}/split_calls.py": ("engine/test_parts.py",),
}  # fmt: skip
