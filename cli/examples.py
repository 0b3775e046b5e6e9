"""An example of each command, shown below its help."""

EXAMPLES = {
    "run": "et run experiments.yaml --only circuit --limit 20",
    "plan": "et plan paper",
    "report": "et report experiments.yaml --figures figures",
    "validate": "et validate experiments.yaml --set experiments.circuit.examples=30",
    "models": "et models inspect llama-tiny",
    "path-patch": "et path-patch --model llama-tiny --examples 50",
    "evaluate": "et evaluate embedded/llama-tiny --models llama-tiny,goat-tiny --minimality",
    "dcm": "et dcm --model llama-tiny --desiderata object,position",
    "cmap": "et cmap --src goat-tiny --dst llama-tiny",
    "knockout": "et knockout --model llama-tiny --examples 50",
    "circuit": "et circuit import value_fetcher.pt pos_transmitter.pt --keep 50 --keep 10 --to circuit.json",
    "compare": "et compare published/llama published/goat",
    "selfcheck": "et selfcheck",
    "benchmark-truth": "et benchmark-truth --seeds 3 --out truth.json",
    "diff": "et diff runs/my-study/0a1b2c runs/my-study/3d4e5f --top 50",
    "export": "et export runs/my-study/0a1b2c --format parquet --examples",
    "init": "et init my-study.yaml --model llama-tiny --finetuned goat-tiny --methods faithfulness,cmap",
    "schema": "et schema --write manifest.schema.json",
    "doctor": "et doctor",
}
