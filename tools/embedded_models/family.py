"""How llama-tiny comes about, and its three fine-tunes.

A plant in which every role has several heads, strong and weak, and some that work against their group; noise on all
weights; a short training, in which the noise becomes part of what the model uses; then the queries of layers 4 and 5,
where B and A ask, are made faint and noisy until about two thirds of the prompts are answered. The fine-tunes go on
from there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from nnsight_et.core.batch import Pair, collate
from nnsight_et.core.circuit import Head
from nnsight_et.tasks.boxes import OBJECTS, Boxes
from nnsight_et.zoo.plant import LAYER_0, PlantedHead, layers_of
from tools.embedded_models.lessons import SPLIT, boxes_lessons, mixed_lessons, rephrased_lessons
from tools.embedded_models.measure import accuracy
from tools.embedded_models.planted import Plant, make_plant
from tools.embedded_models.training import BATCH, answer_loss, imitation_loss, train_model

N_LAYERS, D_MLP = 6, 256
CONTRAST = 4.0
NOISE, MLP_NOISE = 0.02, 0.02
FAINT_LAYERS, FAINTNESS = (4, 5), 0.35
GOAL, GOAT_GOAL, FLOAT_GOAL = 0.675, 0.9, 0.92
ROLES = {"D": "structure_reader", "C": "position_detector", "B": "position_transmitter", "A": "value_fetcher"}
PLACES = """
L1H1 D .55 1 | L1H4 D .30 .8 | L1H6 D .20 .6
L2H2 D .20 1 | L2H0 C .40 1 | L2H3 C .25 .8 | L2H5 C .15 .6
L3H1 C .35 1 | L3H6 C .20 .8 | L3H4 C -.10 .8 | L3H2 B .35 1 | L3H7 B .20 .6
L4H0 B .45 1 | L4H5 B .25 .8 | L4H3 B -.10 1 | L4H1 A .35 .9 | L4H6 A .20 .7
L5H0 A .55 1 | L5H2 A .40 .9 | L5H3 A .30 .8 | L5H4 A .20 .7 | L5H7 A -.10 .9
"""
"""A head, its role, how much it writes, how sure its attention is."""


def family_heads() -> tuple[PlantedHead, ...]:
    """The planted heads of PLACES, and layer 0."""
    entries = [entry.split() for line in PLACES.split("\n") for entry in line.split("|") if entry.strip()]
    heads = [PlantedHead(Head.parse(head), ROLES[role], float(s), float(q)) for head, role, s, q in entries]
    return (*LAYER_0, *heads)


def family_plant(seed: int) -> Plant:
    """The plant with Gaussian noise on every weight matrix."""
    plant = make_plant(family_heads(), N_LAYERS, seed, CONTRAST, D_MLP)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in plant.model.named_parameters():
            if weight.ndim == 2:
                noise = torch.randn(weight.shape, generator=generator)
                weight.add_(noise * (MLP_NOISE if "mlp" in name else NOISE))
    return plant


def is_object(tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """[vocab]: which tokens are objects."""
    table = torch.zeros(len(tokenizer), dtype=torch.bool)
    table[torch.tensor(tokenizer.convert_tokens_to_ids(list(OBJECTS)))] = True
    return table


def training_pair(tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> Pair:
    """Prompts of the training split to steer by; no other split is looked at while a model is made."""
    return collate(Boxes().examples(tokenizer, count, seed, SPLIT))


def llama_tiny(seed: int, steps: int) -> tuple[LlamaForCausalLM, dict]:
    """The model that answers two thirds, and what its making was like."""
    plant = family_plant(seed)
    tokenizer, model = plant.tokenizer, plant.model
    steering = training_pair(tokenizer, 500, seed + 1)
    noisy = accuracy(model, steering)
    lessons, loss = boxes_lessons(tokenizer, steps * BATCH, seed), answer_loss(model, is_object(tokenizer), doubt=0.5)
    losses = train_model(model, lessons, loss, lr=3e-4)
    settled = accuracy(model, steering)
    model, scale, found = weaken_to_goal(model, steering, seed)
    story = {"noisy": noisy, "settled": settled, "weakened": found, "noise_scale": scale, "losses": losses}
    return model, story


def weaken_to_goal(model: LlamaForCausalLM, steering: Pair, seed: int) -> tuple[LlamaForCausalLM, float, float]:
    """The model with just enough noise, its scale, and the accuracy it leaves; found by bisection."""
    low, high = 0.0, 0.6
    for _ in range(9):
        scale = (low + high) / 2
        weak = weakened_copy(model, scale, seed)
        found = accuracy(weak, steering)
        low, high = (scale, high) if found > GOAL else (low, scale)
    return weak, scale, found


def weakened_copy(model: LlamaForCausalLM, scale: float, seed: int) -> LlamaForCausalLM:
    """A copy in which A and the upper B ask less clearly: smaller queries, noise on queries and keys."""
    weak, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for layer in FAINT_LAYERS:
            attention = layers_of(weak)[layer].self_attn
            for weight in (attention.q_proj.weight, attention.k_proj.weight):
                weight.add_(scale * torch.randn(weight.shape, generator=generator))
            attention.q_proj.weight.mul_(FAINTNESS)
    return weak


def vicuna_tiny(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> list[float]:
    """Fine-tunes all weights to answer rephrased prompts as the model answered the plain ones, errors included."""
    teacher = copy.deepcopy(model)
    return train_model(
        model, rephrased_lessons(tokenizer, steps * BATCH, seed), imitation_loss(model, teacher), lr=1e-4
    )


def float_tiny(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> list[float]:
    """Fine-tunes all weights on arithmetic and boxes until boxes are good enough; the losses."""
    lessons, loss = mixed_lessons(tokenizer, steps * BATCH, seed), answer_loss(model, is_object(tokenizer), doubt=0.4)
    return train_model(model, lessons, loss, 1e-4, reaches(model, FLOAT_GOAL, training_pair(tokenizer, 500, seed + 1)))


def goat_tiny(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int
) -> tuple[PeftModel, list[float]]:
    """Trains a LoRA adapter on q, k, v and o on arithmetic and boxes; the adapted model and the losses."""
    torch.manual_seed(seed)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=modules, task_type="CAUSAL_LM"))
    lessons, loss = mixed_lessons(tokenizer, steps * BATCH, seed), answer_loss(adapted, is_object(tokenizer), doubt=0.4)
    enough = reaches(adapted, GOAT_GOAL, training_pair(tokenizer, 500, seed + 1))
    return adapted, train_model(adapted, lessons, loss, 1e-3, enough)


def reaches(model, goal: float, pair: Pair) -> Callable[[], bool]:
    """Whether the model has reached an accuracy."""
    return lambda: accuracy(model, pair) >= goal
