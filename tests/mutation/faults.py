"""The seeded faults, as data: mistakes that papers' code has made or could make, each kind at two places or more.

To add one: a Fault below, with a text that occurs exactly once in its file, the exercise in which it shows, and the
tests that should find it. `python -m tests.mutation NAME` tries it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .runner import ROOT, Change

ABLATION, ACTIVATION = "interventions/ablation.py", "interventions/activation_patching.py"
ATTRIBUTION, CHECKED, CMAP, DCM = (
    "interventions/attribution.py", "interventions/attention_patterns.py", "interventions/cmap.py",
    "interventions/dcm.py",
)  # fmt: skip
CAPTURE, ONE_TOKEN, READOUT = "engine/capture.py", "engine/one_token.py", "engine/readout.py"
KNOCKOUT, PATHS, REFERENCE, SUFFIX = (
    "interventions/knockout.py", "interventions/path_patching.py", "engine/reference.py", "engine/suffix.py",
)  # fmt: skip
BATCH, LOAD, MODEL = "core/batch.py", "models/load.py", "models/model.py"
ADAPTERS = "models/adapters.py"


@dataclass(frozen=True)
class Fault:
    """One mistake: `old` stands once in nnsight_et/`file` and becomes `new`; it shows in the exercise."""

    kind: str
    name: str
    file: str
    old: str
    new: str
    exercise: str
    tests: tuple[str, ...]

    @property
    def change(self) -> Change:
        """The file with the fault in it; ValueError if its old text does not stand there exactly once."""
        path = ROOT / "nnsight_et" / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"fault '{self.name}': {self.file} has its text {text.count(self.old)} times, not once")
        return Change(f"nnsight_et/{self.file}", text.replace(self.old, self.new))


def _fault(kind: str, name: str, file: str, change: tuple[str, str], exercise: str, *tests: str) -> Fault:
    return Fault(kind, name, file, *change, exercise, tuple("{}/test_{}.py".format(*test.split("/")) for test in tests))


FAULTS: tuple[Fault, ...] = (
    _fault(
        "transposed heads", "heads of z and their numbers exchanged", MODEL,
        ('entering.unflatten(-1, (self.n_heads, -1))',
         'entering.unflatten(-1, (-1, self.n_heads)).transpose(-1, -2)'),
        "gqa", "engine/engine",
    ),
    _fault(
        "transposed heads", "heads of q, k, v and their numbers exchanged", MODEL,
        ("(normed)\n", "(normed).unflatten(-1, (self.d_head, -1)).transpose(-1, -2).flatten(-2)\n"),
        "gqa", "interventions/path_patching",
    ),
    _fault(
        "transposed heads", "edits reach the heads in reverse order", SUFFIX,
        ("view[:, :, :, row, slot, edit.heads] = values", "view[:, :, :, row, slot, edit.heads.flip(0)] = values"),
        "gqa", "engine/engine",
    ),
    _fault(
        "off-by-one position", "the captured token is the one before", CAPTURE,
        ("heads.append(z[row, places])", "heads.append(z[row, places - 1])"), "gqa", "engine/engine", "interventions/path_patching",
    ),
    _fault(
        "off-by-one position", "the source's token is the one before", CAPTURE,
        ("outputs[key][layer] = values[row, run.positions[key[0]]]",
         "outputs[key][layer] = values[row, run.positions[key[0]] - 1]"),
        "gqa", "interventions/activation_patching",
    ),
    _fault(
        "off-by-one position", "edits land on the token before", SUFFIX,
        ("row, slot = torch.arange(layout.batch, device=whole.device)[:, None], edit.live_index[:, None]",
         "row, slot = torch.arange(layout.batch, device=whole.device)[:, None], edit.live_index[:, None] - 1"),
        "gqa", "interventions/ablation",
    ),
    _fault(
        "wrong kv group", "query heads share key heads round robin", MODEL,
        ("else index // (self.n_heads // self.n_kv_heads)", "else index % self.n_kv_heads"), "gqa", "interventions/path_patching",
    ),
    _fault(
        "wrong kv group", "receivers are counted round robin", ONE_TOKEN,
        ("add(model.receiver(index, via))", "add(index % model.heads_of(via))"), "gqa", "interventions/path_patching",
    ),
    _fault(
        "wrong kv group", "donated heads are counted round robin", CMAP,
        ("{model.receiver(head.index, via) for", "{head.index % model.heads_of(via) for"), "gqa", "methods/cmap",
    ),
    _fault(
        "expanded keys", "all heads that share a value see it patched", SUFFIX,
        ("outputs[:, :, heads] = second[:, :, heads]", "outputs = second"), "gqa", "interventions/kv_heads",
    ),
    _fault(
        "expanded keys", "the heads that see a value are counted as kv heads", ONE_TOKEN,
        ("queries.setdefault(layer, set()).add(index)",
         "queries.setdefault(layer, set()).add(model.receiver(index, via))"),
        "gqa", "interventions/kv_heads",
    ),
    _fault(
        "dropped o_proj bias", "the output projection without its bias", MODEL,
        ("return self._to_main(projection(self._to_layer(layer, entering)))",
         "return projection(entering) - projection(torch.zeros_like(entering))"),
        "bias", "interventions/path_patching",
    ),
    _fault(
        "dropped o_proj bias", "the sender's layer without its bias", ONE_TOKEN,
        ("    return model.attention_of(here, _donated_z(token, here, senders, senders.heads).flatten(0, 1)[:, None])",
         "    z = _donated_z(token, here, senders, senders.heads).flatten(0, 1)[:, None]\n"
         "    return model.attention_of(here, z) - model.attention_of(here, torch.zeros_like(z))"),
        "bias", "interventions/path_patching",
    ),
    _fault(
        "missing LoRA", "the adapter is not loaded", LOAD,
        ("        attach_adapter(module, files.adapter, files.name)", "        pass"), "lora", "models/load",
    ),
    _fault(
        "missing LoRA", "the adapter is loaded and switched off", ADAPTERS,
        ("    if missing or surplus:", "    adapted.base_model.disable_adapter_layers()\n    if missing or surplus:"),
        "lora", "models/load", "methods/cmap",
    ),
    _fault(
        "missing LoRA", "the output projection's base alone", MODEL,
        ("return self._to_main(projection(self._to_layer(layer, entering)))",
         'return (projection.base_layer if "lora_A" in dir(projection) else projection)(entering)'),
        "lora", "interventions/path_patching", "models/load", "methods/cmap",
    ),
    _fault(
        "missing LoRA", "the receivers' projections' base alone", MODEL,
        ("output = self.part(projection.path, layer)(normed)",
         "module = self.part(projection.path, layer)\n"
         '        output = (module.base_layer if "lora_A" in dir(module) else module)(normed)'),
        "lora", "interventions/path_patching", "models/load", "methods/cmap",
    ),
    _fault(
        "position_ids not passed", "every run counts its padding", MODEL,
        ("position_ids=position_ids, ", ""), "padding", "engine/engine", "interventions/path_patching",
    ),
    _fault(
        "position_ids not passed", "recomputed tokens count their padding", SUFFIX,
        ("places = layout.spread(capture.run.position_ids[row, capture.live])", "places = layout.spread(capture.live)"),
        "padding", "engine/engine", "interventions/path_patching",
    ),
    _fault(
        "position_ids not passed", "every token has the first place", BATCH,
        ("return (self.mask.cumsum(-1) - 1).clamp(min=0)", "return torch.zeros_like(self.mask)"),
        "padding", "core/batch", "engine/engine",
    ),
    _fault(
        "mask leaking", "variants side by side see each other", SUFFIX,
        ("own[:, one, :, one] = itself.expand(branches, -1, -1, -1)", "own[:] = itself[:, None, :, None]"),
        "gqa", "engine/engine",
    ),
    _fault(
        "mask leaking", "tokens see later ones of the prompt", CAPTURE,
        ("fixed[:, None, :width] & (columns[:width] < live[:, :, None])", "fixed[:, None, :width].expand(-1, live.shape[1], -1)"),
        "gqa", "interventions/ablation", "engine/engine",
    ),
    _fault(
        "mask leaking", "recomputed tokens see the padding", CAPTURE,
        ("fixed = run.mask.bool() & ~(live", "fixed = ~(live"), "padding", "engine/engine", "interventions/path_patching",
    ),
    _fault(
        "prefix from the wrong example", "keys and values of the batch's next prompt", SUFFIX,
        ("fixed = one[:, :, :width]", "fixed = one[:, :, :width].roll(1, 0)"),
        "gqa", "engine/engine",
    ),
    _fault(
        "prefix from the wrong example", "the residual of the batch's next prompt", SUFFIX,
        ("layout.spread(capture.entering[start])", "layout.spread(capture.entering[start].roll(1, 0))"),
        "gqa", "interventions/activation_patching",
    ),
    _fault(
        "prefix from the wrong example", "what the donor gave for the batch's other prompts", "methods/cmap/experiment.py",
        ("{name: tensor[rows] for", "{name: tensor[rows[::-1]] for"),
        "gqa", "methods/cmap",
    ),
    _fault(
        "stale cache", "a narrowed run keeps the residuals of its first tokens", CAPTURE,
        ("{layer: residual[row, slot] for", "{layer: residual[:, : slot.shape[1]] for"), "gqa", "engine/engine",
    ),
    _fault(
        "stale cache", "donated keys stay in the recipient's cache", CMAP,
        ("entry[which] = entry[which].clone()", "entry[which] = entry[which]"), "gqa", "methods/cmap",
    ),
    _fault(
        "stale cache", "a cell's name has the number of its examples only", "measuring/cell_cache.py",
        ("data_digest([step.examples[index] for index in batch]) for batch in", "len(batch) for batch in"),
        "gqa", "methods/jobs", "runner/run", "runner/rerun", "methods/method_edges",
    ),
    _fault(
        "wrong padding side", "tokens on the right, positions as on the left", BATCH,
        ("tokens[row, offset : offset + len(prompt.tokens)]", "tokens[row, : len(prompt.tokens)]"),
        "padding", "core/batch", "engine/engine",
    ),
    _fault(
        "wrong padding side", "the mask on both sides", BATCH,
        ("mask[row, offset : offset + len(prompt.tokens)] = 1", "mask[row] = 1"),
        "padding", "core/batch", "engine/engine",
    ),
    _fault(
        "wrong padding side", "positions are not moved with the tokens", BATCH,
        ("torch.tensor([prompt.positions[name] + offset for", "torch.tensor([prompt.positions[name] + 0 * offset for"),
        "padding", "core/batch", "engine/engine",
    ),
    _fault(
        "softmax over the wrong axis", "probabilities over the batch", READOUT,
        ("wide.softmax(-1)", "wide.softmax(0)"), "gqa", "engine/engine",
    ),
    _fault(
        "softmax over the wrong axis", "the reference's sum over all prompts", "engine/reference.py",
        (".exp().sum(-1).log()", ".exp().sum(-1).mean().log()"), "gqa", "interventions/path_patching", "engine/engine",
    ),
    _fault(
        "ratio of means", "the patching score", "core/metrics.py",
        ("return patching_effect(patched, base, metric).mean(-1)", "return (patched - base).mean(-1) / base.mean()"),
        "gqa", "core/metrics",
    ),
    _fault(
        "ratio of means", "each example's ratio", "core/metrics.py",
        ("return (patched - base) / base", "return (patched - base) / base.mean()"), "gqa", "core/metrics",
    ),
    _fault(
        "ratio of means", "the exact effects of attribution", ATTRIBUTION,
        ('"exact": ((exact - base) / base).cpu()', '"exact": ((exact - base) / base.mean()).cpu()'), "gqa", "interventions/attribution",
    ),
    _fault(
        "wrong metric", "KL the other way round", "core/metrics.py",
        ("log_p, log_q = base.log_softmax(-1), logits.log_softmax(-1)",
         "log_p, log_q = logits.log_softmax(-1), base.log_softmax(-1)"),
        "gqa", "core/metrics", "interventions/path_metrics",
    ),
    _fault(
        "wrong metric", "KL beside another run than the base", PATHS,
        ("asked = ReadoutSpec.of(pair, whole.logits)", "asked = ReadoutSpec.of(pair, whole.logits.roll(1, 0))"),
        "gqa", "interventions/path_metrics",
    ),
    _fault(
        "foils added", "to the logit difference", "core/metrics.py",
        ("return right - _sum_over(logits, foils)", "return right + _sum_over(logits, foils)"),
        "gqa", "core/metrics", "interventions/path_metrics",
    ),
    _fault(
        "foils added", "to the probability difference", "core/metrics.py",
        ("return _sum_over(probability, right) - _sum_over(probability, foils)",
         "return _sum_over(probability, right) + _sum_over(probability, foils)"),
        "gqa", "core/metrics", "interventions/path_metrics",
    ),
    _fault(
        "wrong selection", "the smallest divergences come first", "core/named_metrics.py",
        ('None, ranks="large",', 'None, ranks="negative",'), "gqa", "interventions/path_metrics",
    ),
    _fault(
        "receivers one by one", "only the first receiver of a layer is replaced", PATHS,
        ("Edit(end, site, slot, receivers.heads[end], values,",
         "Edit(end, site, slot, receivers.heads[end][:1], values[:, :, :1],"),
        "gqa", "interventions/path_patching",
    ),
    _fault(
        "receivers one by one", "only the first layer of receivers is replaced", PATHS,
        ("for end, values in inputs.items()\n", "for end, values in list(inputs.items())[:1]\n"), "gqa", "interventions/path_patching",
    ),
    _fault(
        "receivers one by one", "the reference replaces the last receiver alone", REFERENCE,
        ("            for receiver in path.receivers:", "            for receiver in path.receivers[-1:]:"), "gqa", "interventions/path_patching",
    ),
    _fault(
        "source position ignored", "the source's outputs at the base's position", ACTIVATION,
        ("head_outputs(model, run, layers_of(some))",
         "head_outputs(model, PromptBatch(run.tokens, run.mask, base.positions), layers_of(some))"),
        "gqa", "interventions/activation_patching",
    ),
    _fault(
        "source position ignored", "the reference's source at the base's position", REFERENCE,
        ("source_z[layer][row, pair.source.positions[at], sender.index]", "source_z[layer][row, position, sender.index]"),
        "gqa", "interventions/path_patching",
    ),
    _fault(
        "source position ignored", "masks are trained with the source at the base's position", DCM,
        ("head_outputs(model, pair.source, layers_of([Circuit(tuple(groups))]))",
         "head_outputs(model, type(base)(pair.source.tokens, pair.source.mask, base.positions), layers_of([Circuit(tuple(groups))]))"),
        "gqa", "methods/dcm",
    ),
    _fault(
        "layers off by one", "the one-token pass starts from the residual below", ONE_TOKEN,
        ("token.entering[first].repeat(", "token.entering[max(first - 1, 0)].repeat("),
        "gqa", "interventions/path_patching",
    ),
    _fault(
        "layers off by one", "the suffix pass begins a layer too high", "engine/paths.py",
        ("next(end for end in ends if self", "max(end for end in ends if self"), "gqa", "interventions/path_patching",
    ),
    _fault(
        "layers off by one", "heads take the mean of the layer below", ABLATION,
        ("return [layer[slot] for layer in means.to(model.device)]",
         "return [layer[slot] for layer in means.to(model.device).roll(1, 0)]"),
        "gqa", "interventions/ablation",
    ),
    _fault(
        "layers off by one", "attention is blocked from the next layer up", KNOCKOUT,
        ("suffix(model, blocked, first, [], question.answer, chunks)",
         "suffix(model, blocked if first else whole, first, [], question.answer, chunks)"),
        "gqa", "interventions/knockout",
    ),
    _fault(
        "dtype downcast", "logits in half precision", READOUT,
        ("else logits\n", "else logits.bfloat16().float()\n"), "gqa", "engine/engine",
    ),
    _fault(
        "dtype downcast", "edits in half precision", SUFFIX,
        (".reshape(shape).to(whole.dtype)", ".reshape(shape).bfloat16().to(whole.dtype)"), "gqa", "interventions/ablation",
    ),
    _fault(
        "dtype downcast", "means in half precision", ABLATION,
        (".to(model.dtype).cpu()", ".bfloat16().to(model.dtype).cpu()"), "gqa", "interventions/ablation",
    ),
    _fault(
        "wrong means", "one mean over all positions", ABLATION,
        ("slot = slots(run, names)[real]", "slot = slots(run, names)[real] * 0"), "gqa", "interventions/ablation",
    ),
    _fault(
        "wrong means", "padding counts as tokens", ABLATION,
        ("real = run.mask.bool()", "real = torch.ones_like(run.mask).bool()"), "padding", "interventions/ablation", "methods/method_edges",
    ),
    _fault(
        "wrong means", "means over the measured prompts themselves", "measuring/circuits.py",
        ("padded_batch([self.prompts[i] for i in batch], pad)", "padded_batch([self.examples[i].base for i in batch], pad)"),
        "gqa", "interventions/ablation", "methods/jobs", "methods/minimality", "methods/completeness",
    ),
    _fault(
        "answer of another example", "the answers' order is turned round", READOUT,
        ("index = answer.expand(wide.shape[:-1])[..., None]", "index = answer.flip(0).expand(wide.shape[:-1])[..., None]"),
        "gqa", "engine/engine",
    ),
    _fault(
        "answer of another example", "the batch's answers are the next example's", BATCH,
        ("return Pair(base, source, torch.tensor([example.answer for example in examples]),",
         "return Pair(base, source, torch.tensor([example.answer for example in examples]).roll(1),"),
        "gqa", "core/batch",
    ),
    _fault(
        "kept and replaced exchanged", "the circuit's heads are ablated, others kept", ABLATION,
        ("keep = {name: members(model, circuits, name) for name in names}",
         "keep = {name: ~members(model, circuits, name) for name in names}"),
        "gqa", "interventions/ablation",
    ),
    _fault(
        "kept and replaced exchanged", "a mask of 1 takes the source", SUFFIX,
        ("keep * current + (1 - keep) * values", "keep * values + (1 - keep) * current"), "gqa", "methods/dcm",
    ),
    _fault(
        "kept and replaced exchanged", "all heads but the chosen are patched", ACTIVATION,
        ("heads, values, ~_has_head(model, some, name, layer)", "heads, values, _has_head(model, some, name, layer)"),
        "gqa", "interventions/activation_patching",
    ),
    _fault(
        "values of another variant", "variants take each other's values", SUFFIX,
        ("else self.values[variants]", "else self.values[variants.flip(0)]"), "gqa", "engine/engine", "interventions/path_patching",
    ),
    _fault(
        "values of another variant", "variants keep each other's heads", SUFFIX,
        ("else self.keep[variants]", "else self.keep[variants.flip(0)]"), "gqa", "engine/engine", "interventions/ablation",
    ),
    _fault(
        "blocked edge", "the token beside the right one is hidden", KNOCKOUT,
        ("visible[row, whole.live_index(blind), to] = False", "visible[row, whole.live_index(blind), to - 1] = False"),
        "gqa", "interventions/knockout",
    ),
    _fault(
        "blocked edge", "the reference blocks the edge the wrong way", REFERENCE,
        ("fewer[row, blind, to] = False", "fewer[row, to, blind] = False"), "gqa", "interventions/knockout",
    ),
    _fault(
        "frozen heads", "heads at the position itself are frozen too", CMAP,
        ("(columns < at[:, None])[:, :, None, None]", "(columns <= at[:, None])[:, :, None, None]"), "gqa", "methods/cmap",
    ),
    _fault(
        "frozen heads", "the reference lets the position's other heads recompute", REFERENCE,
        ("where = frozen[..., None].expand(values.shape[:-1])",
         "where = (columns > position[:, None])[..., None].repeat(1, 1, values.shape[2])\n"
         "        if sender:\n"
         "            where[row, position, sender.index] = layer == sender.layer"),
        "gqa", "interventions/path_patching",
    ),
    _fault(
        "MLPs", "every variant takes every MLP of its pass from the source", ONE_TOKEN,
        ("[senders.layers.index(here), :, 0] = ", "[:, :, 0] = "), "gqa", "interventions/mlp_paths",
    ),
    _fault(
        "MLPs", "an MLP donates in the first variant of its pass", ONE_TOKEN,
        ("[senders.layers.index(here), :, 0] = ", "[0, :, 0] = "), "gqa", "interventions/mlp_paths",
    ),
    _fault(
        "MLPs", "the reference's source MLP at the base's position", REFERENCE,
        ("donated = source_mlp[row, pair.source.positions[at]]", "donated = source_mlp[row, pair.base.positions[at]]"),
        "gqa", "interventions/mlp_paths",
    ),
    _fault(
        "MLPs", "the reference replaces what enters the last of the receiving MLPs alone", REFERENCE,
        ("            current = model.mlp_input(layer, len(row)).clone()\n",
         "            current = model.mlp_input(layer, len(row)).clone()\n"
         "            if layer < max(inputs):\n"
         "                continue\n"),
        "gqa", "interventions/mlp_paths",
    ),
    _fault(
        "wrong direction", "the target's logit is made small", DCM,
        ("-training.sparsity - slope", "-training.sparsity + slope"), "gqa", "methods/dcm",
    ),
    _fault(
        "wrong direction", "each selected head is a gain", DCM,
        ("-training.sparsity - slope", "training.sparsity - slope"), "gqa", "methods/dcm",
    ),
    _fault(
        "wrong direction", "the sign of attributed effects", ATTRIBUTION,
        ("return -slope.T.cpu()", "return slope.T.cpu()"), "gqa", "interventions/attribution",
    ),
    _fault(
        "wrong selection", "the least harmful heads are kept", "measuring/stage_scores.py",
        ("key=lambda head: (direction * score[head].item(), head)", "key=lambda head: (-direction * score[head].item(), head)"),
        "gqa", "methods/stage_scores",
    ),
    _fault(
        "wrong selection", "the worst mask is chosen", DCM,
        ("return max(range(len(masks)), key", "return min(range(len(masks)), key"), "gqa", "methods/dcm",
    ),
    _fault(
        "wrong selection", "minimality keeps what it should drop", "core/metrics.py",
        ("return contribution(before, after) >= threshold", "return contribution(before, after) < threshold"),
        "gqa", "core/metrics",
    ),
    _fault(
        "donor and recipient", "the recipient gives to itself", "methods/cmap/experiment.py",
        ("    donor = job.models[0]\n", "    donor = job.models[1]\n"), "gqa", "methods/cmap",
    ),
    _fault(
        "donor and recipient", "the donor receives", "methods/cmap/experiment.py",
        ('_step(context, job, recipient, "recipient outputs"', '_step(context, job, donor, "recipient outputs"'),
        "gqa", "methods/cmap",
    ),
    _fault(
        "ratio turned round", "faithfulness", "core/metrics.py",
        ("return circuit / model if model", "return model / circuit if circuit"), "gqa", "core/metrics",
    ),
    _fault(
        "ratio turned round", "what a head contributes", "core/metrics.py",
        ("return round(before / after - 1, TIE_DIGITS)", "return round(after / before - 1, TIE_DIGITS) if before else -1.0"),
        "gqa", "core/metrics",
    ),
    _fault(
        "columns exchanged", "rest and named positions of attention", CHECKED,
        ("rest = weights.sum(-1) - named.sum(0)", "rest = weights.sum(-1) - named[0]"), "gqa", "interventions/attention_patterns",
    ),
    _fault(
        "columns exchanged", "results of batches in the order of the batches", "measuring/cell_cache.py",
        ("torch.tensor([index for batch in keys for index in batch]).argsort()",
         "torch.arange(len([index for batch in keys for index in batch]))"),
        "padding", "methods/jobs", "runner/run",
    ),
)  # fmt: skip


def problems() -> list[str]:
    """What is wrong with the faults themselves: a text that is not there once, no Python, a kind at one place only."""
    kinds = Counter(fault.kind for fault in FAULTS)
    alone = [f"kind '{kind}' is at one place only" for kind, count in kinds.items() if count < 2]
    return [*text_problems(FAULTS), *alone, *repeated_names(FAULTS)]


def text_problems(faults: Iterable[Fault]) -> list[str]:
    """Whose text is not there once, or becomes no Python."""
    found = []
    for fault in faults:
        try:
            compile(fault.change.text, fault.file, "exec")
        except (ValueError, SyntaxError) as error:
            found.append(str(error))
    return found


def repeated_names(faults: Iterable[Fault]) -> list[str]:
    """Which names more than one fault has."""
    names = Counter(fault.name for fault in faults)
    return [f"two faults are called '{name}'" for name, count in names.items() if count > 1]
