"""Which tests look at which file of the engine and the methods, cheapest first."""

from __future__ import annotations

ENGINE = "nnsight_et/engine"
METHODS = "nnsight_et/interventions"
TESTS: dict[str, tuple[str, ...]] = {
    f"{ENGINE}/budget.py": ("test_engine.py", "test_work_counts.py"),
    f"{ENGINE}/capture.py": (
        "test_engine.py", "test_ablation.py", "test_activation_patching.py", "test_cmap.py", "test_path_patching.py",
        "test_work_counts.py",
    ),
    f"{ENGINE}/one_token.py": ("test_path_patching.py", "test_work_counts.py"),
    f"{ENGINE}/readout.py": ("test_engine.py", "test_ablation.py", "test_activation_patching.py", "test_knockout.py"),
    f"{ENGINE}/reference.py": (
        "test_engine.py", "test_ablation.py", "test_activation_patching.py", "test_knockout.py",
        "test_path_patching.py",
    ),
    f"{ENGINE}/suffix.py": (
        "test_engine.py", "test_ablation.py", "test_activation_patching.py", "test_self_check.py", "test_dcm.py",
        "test_path_patching.py", "test_work_counts.py",
    ),
    f"{METHODS}/ablation.py": (
        "test_ablation.py", "test_completeness.py", "test_engines_apart.py", "test_minimality.py",
        "test_method_edges.py",
    ),
    f"{METHODS}/activation_patching.py": (
        "test_activation_patching.py", "test_cmap.py", "test_attribution.py", "test_method_edges.py",
    ),
    f"{METHODS}/attention_patterns.py": ("test_attention_patterns.py", "test_engines_apart.py"),
    f"{METHODS}/attribution.py": ("test_attribution.py", "test_engines_apart.py"),
    f"{METHODS}/cmap.py": ("test_cmap.py", "test_engines_apart.py", "test_method_edges.py"),
    f"{METHODS}/dcm.py": ("test_dcm.py", "test_attribution.py", "test_method_edges.py", "test_work_counts.py"),
    f"{METHODS}/engine_checks.py": ("test_self_check.py", "test_method_checks.py"),
    f"{METHODS}/method_checks.py": ("test_method_checks.py",),
    f"{METHODS}/knockout.py": ("test_knockout.py", "test_engines_apart.py"),
    f"{METHODS}/path_patching.py": ("test_path_patching.py", "test_engines_apart.py", "test_work_counts.py"),
}  # fmt: skip
