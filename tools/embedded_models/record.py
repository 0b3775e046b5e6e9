"""What the record says about the stored models, measured on data that no training saw."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from nnsight_et.core.batch import collate, padded_batch
from nnsight_et.tasks.boxes import Boxes
from tools.embedded_models.forward import capture_run
from tools.embedded_models.measure import (
    PatchingStage,
    Scores,
    accuracy,
    all_heads,
    circuit_accuracy,
    discover_circuit,
    random_circuit,
)

STAGES = (
    PatchingStage("value_fetcher", "last", None, keep=6, receivers=4),
    PatchingStage("position_transmitter", "last", "query", keep=4, receivers=3),
    PatchingStage("position_detector", "query_label", "value", keep=5, receivers=3),
    PatchingStage("structure_reader", "previous_query_label", "value", keep=3, receivers=3),
)
DATA_SEEDS = (1, 2, 3, 4, 5)
EXAMPLES, EVALUATED, ABLATED = 300, 500, 500
EVALUATION_SEED = 0
RANDOM_CIRCUITS = 10


def measure_models(models: dict[str, LlamaForCausalLM], tokenizer: PreTrainedTokenizerFast) -> dict:
    """Accuracies of all models; llama-tiny's stage scores per data seed, its circuit and how faithful that is."""
    held_out = collate(Boxes().examples(tokenizer, EVALUATED, EVALUATION_SEED, "evaluation"))
    pairs = {seed: collate(Boxes().examples(tokenizer, EXAMPLES, seed, "discovery")) for seed in DATA_SEEDS}
    llama = models["llama-tiny"]
    results = {seed: discover_circuit(llama, pair, STAGES) for seed, pair in pairs.items()}
    circuit = results[DATA_SEEDS[0]][0]
    prompts = padded_batch(Boxes().prompts(tokenizer, ABLATED, EVALUATION_SEED, "ablation"))
    faithful = {}
    for name, model in models.items():
        with torch.no_grad():
            means = [z.mean(0) for z in capture_run(model, prompts.tokens).heads]
        alone, whole = circuit_accuracy(model, held_out, means, circuit), accuracy(model, held_out)
        faithful[name] = {"circuit": alone, "model": whole, "faithfulness": round(alone / whole, 4)}
        if name == "llama-tiny":
            draws = [random_circuit(llama, circuit, seed) for seed in range(RANDOM_CIRCUITS)]
            chance = torch.tensor([circuit_accuracy(llama, held_out, means, one) for one in draws])
            faithful["random circuits, llama-tiny"] = {"mean": chance.mean().item(), "std": chance.std().item()}
    return {
        "accuracy": {name: accuracy(model, held_out) for name, model in models.items()},
        "stages": {
            stage.group: {str(seed): stage_summary(llama, scores[stage.group]) for seed, (_, scores) in results.items()}
            for stage in STAGES
        },
        "p_base_1_percent": {
            str(seed): round(scores["value_fetcher"].p_base.quantile(0.01).item(), 5)
            for seed, (_, scores) in results.items()
        },
        "circuit": circuit.to_dict(),
        "faithfulness": faithful,
    }


def stage_summary(model: LlamaForCausalLM, scores: Scores) -> dict:
    """The best head, its score, the heads that matter (score <= -0.01, interval below 0), and the largest score."""
    heads, means = all_heads(model), scores.ratios.mean(-1)
    upper = bootstrap_upper(scores.ratios)
    mattering = [i for i in means.argsort().tolist() if means[i] <= -0.01 and upper[i] < 0]
    best = int(means.argmin())
    return {
        "best": str(heads[best]),
        "score": round(means[best].item(), 4),
        "matter": {str(heads[i]): round(means[i].item(), 4) for i in mattering},
        "largest": round(means.max().item(), 4),
    }


def bootstrap_upper(ratios: Tensor, draws: int = 1000) -> Tensor:
    """[head]: upper end of the 95% bootstrap interval of the mean over examples."""
    generator = torch.Generator().manual_seed(0)
    picked = torch.randint(ratios.shape[1], (draws, ratios.shape[1]), generator=generator)
    counts = torch.zeros(draws, ratios.shape[1]).scatter_add_(1, picked, torch.ones_like(picked, dtype=torch.float))
    return (ratios @ counts.T / ratios.shape[1]).quantile(0.975, dim=-1)
