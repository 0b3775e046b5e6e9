"""A client process of the NDIF server: what it computes there, beside the same here, as one JSON object.

`python client.py FOLDERS [untrusted]`: a JSON object of hub name -> folder; the server as nnsight's environment says.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nnsight
import torch
from nnsight import TransformersModel
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.schema.request import RequestModel
from torch import Tensor

from nnsight_et.core.batch import Pair, collate
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.ablation import AblationValues, circuit_readouts
from nnsight_et.interventions.dcm import Training, masked_readout, prepare_batches, trained_masks
from nnsight_et.interventions.knockout import knockout_readouts
from nnsight_et.interventions.path_patching import Path as PatchedPath
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.models.files import download_files
from nnsight_et.models.load import load_model, tokenizer_of
from nnsight_et.models.model import Model
from nnsight_et.tasks.boxes import Boxes

CHUNKS = Chunks()
GROUP = HeadGroup("value_fetcher", "last", (Head(4, 0), Head(5, 1)))


class Client:
    """The models here and there, and a batch of pairs."""

    def __init__(self, folders: dict[str, str]) -> None:
        llama = download_files("llama", ModelSpec(folders["tiny/llama"]))
        goat = download_files("goat", ModelSpec(folders["tiny/llama"], adapter=folders["tiny/goat"]))
        self.tokenizer = tokenizer_of(llama)
        self.here, self.goat_here = load_model(llama), load_model(goat)
        self.there, self.goat_there = self.remote(), self.remote(peft="tiny/goat")
        self.pair = collate(Boxes().examples(self.tokenizer, 4, 0, "discovery"))
        self.path = PatchedPath("last", "query", GROUP.heads)
        self.senders = self.path.reaching(self.here.n_layers, self.here.n_heads)

    def remote(self, **options: str) -> Model:
        """The model on the server: names and sizes here, no weights."""
        nn = TransformersModel("tiny/llama", task="text-generation", tokenizer=self.tokenizer, **options)
        return replace(self.here, nn=nn)

    def arguments(self, engine: str) -> tuple[Any, ...]:
        """Of path patching, after the model: every sender into the queries of the group."""
        return (self.pair, self.path, self.senders, engine, CHUNKS)


def in_turn(calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    """What each call gives; a job's whole body."""
    return [function(*arguments) for function, arguments in calls]


def seen(model: Model) -> dict[str, Any]:
    """What a job sees of its process: whose modules are there, where the weights are."""
    ours = [name for name in sys.modules if name.startswith("nnsight_et")]
    return {"ours": ours, "meta": model.part("self_attn.o_proj", 0).weight.is_meta}


def mask_gradient(model: Model, pair: Pair) -> Tensor:
    """[head]: how the answer's logit changes with a mask over the group, through the model alone."""
    with model.session():
        (batch,) = prepare_batches(model, [GROUP], pair)
        mask = torch.full((1, len(GROUP.heads)), 0.5, requires_grad=True)
        (gradient,) = torch.autograd.grad(masked_readout(model, GROUP, batch, mask, CHUNKS).logit.mean(), mask)
        gradient = nnsight.save(gradient)
    return gradient


def difference(one: Any, other: Any) -> float:
    """The largest difference of two answers of the same form; 0 only if they are equal to the last bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list):
        assert len(one) == len(other) > 0
        return max(difference(a, b) for a, b in zip(one, other, strict=True))
    return 0.0 if torch.equal(one, other) else float((one.double() - other.double()).abs().max())


def logits(model: Model, pair: Pair, remote: bool) -> Tensor:
    """[batch, vocabulary]: of one trace."""
    where = {"remote": True} if remote else {}
    with torch.no_grad(), model.nn.trace(input_ids=pair.base.tokens, attention_mask=pair.base.mask, **where):
        found = nnsight.save(model.nn.output.logits[:, -1])
    return found


def trace(client: Client) -> float:
    """One trace of the base model."""
    return difference(logits(client.there, client.pair, True), logits(client.here, client.pair, False))


def adapters(client: Client) -> list[float]:
    """The base, the adapter, the base and the adapter in turn, each beside the same here; last, how they differ."""
    pair, found = client.pair, []
    models = ((client.there, client.here), (client.goat_there, client.goat_here))
    for there, here in models * 2:
        found.append(difference(logits(there, pair, True), logits(here, pair, False)))
    return [*found, difference(logits(client.here, pair, False), logits(client.goat_here, pair, False))]


def path_patching(client: Client, engine: str = "default") -> float:
    """One intervention, whose own session is nested in the job's."""
    model, arguments = client.there, client.arguments(engine)  # a block that names the client would ship all of it
    with model.nn.session(remote=True):
        outcome = nnsight.save(path_probabilities(model, *arguments))
    return difference(outcome, path_probabilities(client.here, *arguments))


def path_patching_reference(client: Client) -> float:
    """The same with the reference engine."""
    return path_patching(client, "reference")


def list_of_calls(client: Client) -> float:
    """Three methods as functions and arguments in a list, in one job."""
    model = client.there
    there = calls(client, model)
    with model.nn.session(remote=True):
        outcome = nnsight.save(in_turn(there))
    return difference(outcome, in_turn(calls(client, client.here)))


def calls(client: Client, model: Model) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Path patching, a circuit by itself, and a knockout, of one model."""
    pair, base = client.pair, client.pair.base
    edge = (base.positions["last"], base.positions["query_label"])
    return [
        (path_probabilities, (model, pair, client.path, client.senders[:8], "default", CHUNKS)),
        (circuit_readouts, (model, pair.question, AblationValues(), [Circuit((GROUP,))], "default", CHUNKS)),
        (knockout_readouts, (model, pair.question, edge, [0, 3], "default", CHUNKS)),
    ]


def what_a_job_sees(client: Client) -> dict[str, Any]:
    """Of its own process."""
    model = client.there
    with model.nn.session(remote=True):
        outcome = nnsight.save(seen(model))
    return outcome


def gradient(client: Client) -> float:
    """A mask's gradient, through the model alone."""
    model, pair = client.there, client.pair
    with model.nn.session(remote=True):
        outcome = nnsight.save(mask_gradient(model, pair))
    return difference(outcome, mask_gradient(client.here, pair))


def training(client: Client) -> float:
    """Masks trained in one job."""
    model, arguments = client.there, ([GROUP], Training(epochs=1), [client.pair], [client.pair], CHUNKS)
    with model.nn.session(remote=True):
        outcome = nnsight.save(trained_masks(model, *arguments))
    return difference(outcome, trained_masks(client.here, *arguments))


def error(client: Client) -> None:
    """Senders in the wrong order, which the method refuses."""
    model, pair, path, backwards = client.there, client.pair, client.path, client.senders[::-1]
    with model.nn.session(remote=True):
        outcome = nnsight.save(path_probabilities(model, pair, path, backwards, "default", CHUNKS))
    assert outcome


def fetched_twice(client: Client) -> float:
    """A job that is submitted, then fetched by its id from two new backends."""
    model, arguments, fetched = client.there, client.arguments("default"), []
    with model.nn.session(remote=True, blocking=False) as job:
        outcome = nnsight.save(path_probabilities(model, *arguments))  # noqa: F841
    for _ in range(2):
        again = RemoteBackend(model.nn.to_model_key(), blocking=False, job_id=job.backend.job_id)
        while (saved := again()) is None:
            time.sleep(0.05)
        fetched.append(saved["outcome"])
    return max(difference(one, path_probabilities(client.here, *arguments)) for one in fetched)


CHECKS = (trace, adapters, path_patching, path_patching_reference, list_of_calls, what_a_job_sees, gradient, training)


def main(folders: str, trust: str = "trusted") -> None:
    """Print the answers by the name of the check; an error of a job as {"error": its text}."""
    nnsight.CONFIG.APP.REMOTE_LOGGING = False
    nnsight.register("nnsight_et")
    if (
        trust == "untrusted"
    ):  # a client cannot ask for it; where keys are not checked, the server heeds it in the request
        plain = RequestModel.metadata
        RequestModel.metadata = lambda self: json.dumps(json.loads(plain(self)) | {"trusted": False})
    client, answers = Client(json.loads(Path(folders).read_text())), {}
    for check in (*CHECKS, error, fetched_twice):
        try:
            answers[check.__name__] = check(client)
        except RemoteError as failure:
            answers[check.__name__] = {"error": str(failure)}
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
