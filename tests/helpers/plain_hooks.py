"""Path patching and head replacement once more, with plain PyTorch hooks on Hugging Face models.

This is the measure the package is held against, so it shares no code with it: no nnsight, no engine, no shortcut. Every
run computes the whole sequence. Several senders ride in one batch (sender after sender, each with all examples); that
saves time and changes no number. A head is any pair (layer, index). A run is anything with `tokens` [batch, seq],
`mask` [batch, seq] and `positions`, a dict from a name to token indices [batch]; a pair has `base`, `source`, `answer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

Where = tuple[Tensor, Tensor]
"""For one layer: which heads are replaced, a bool [batch, seq, head], and by what, [batch, seq, head, d_head]."""


def sizes(model) -> tuple[int, int, int]:
    """Query heads, key heads, and the width of one."""
    config = model.config.get_text_config()
    if config.model_type == "gemma4_text":  # its configuration has a width for each layer, and says none of all
        config = config.per_layer_config[0]
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    if config.model_type == "falcon":
        return heads, falcon_key_heads(config), width
    return heads, getattr(config, "num_key_value_heads", None) or heads, width


def falcon_key_heads(config) -> int:
    """Falcon 7B has one, Falcon 40B and 11B as many as they say, the oldest ones as many as heads."""
    if config.new_decoder_architecture:
        return config.num_kv_heads
    return 1 if config.multi_query else config.num_attention_heads


def blocks(model):
    decoder = model.get_decoder()
    return decoder.layers if hasattr(decoder, "layers") else decoder.h


def named(module, *names: str):
    """The part of a module that has one of these names."""
    return next(getattr(module, name) for name in names if hasattr(module, name))


def attention_module(block):
    return named(block, "self_attn", "attn", "attention", "self_attention")


def out_projection(block):
    """The module whose input is z."""
    mixer = getattr(block, "linear_attn", None) or getattr(block, "mamba", None) or attention_module(block)
    return named(mixer, "o_proj", "out_proj", "c_proj", "dense")


def projection(model, layer: int, via: str):
    """The module that gives the queries, keys or values, and its output's columns that are each head's [head, d]."""
    attention, (heads, kv_heads, d) = attention_module(blocks(model)[layer]), sizes(model)
    d = getattr(attention, "head_dim", d)
    count = heads if via == "query" else kv_heads
    which = ("query", "key", "value").index(via)
    group = heads // kv_heads
    by_group = [(head // group * (group + 2) + head % group) * d for head in range(heads)]
    if which:  # a group is its queries, its key and its value
        by_group = [(head * (group + 2) + group + which - 1) * d for head in range(kv_heads)]
    if hasattr(attention, "query_key_value") or hasattr(attention, "multi_query"):
        module, first = named(attention, "query_key_value", "c_attn"), by_group
    elif hasattr(attention, "c_attn") or hasattr(attention, "qkv_proj"):  # all queries, all keys, all values
        start = (0, heads * d, (heads + kv_heads) * d)[which]
        module, first = named(attention, "c_attn", "qkv_proj"), [start + head * d for head in range(count)]
    else:
        module, each = getattr(attention, f"{via[0]}_proj"), d
        if via == "query" and module.weight.shape[0] == 2 * heads * d:  # and behind it what gates the head's output
            each = 2 * d
        first = [head * each for head in range(count)]
        norm = getattr(attention, f"{via[0]}_norm", None)
        shape = getattr(getattr(norm, "weight", None), "shape", None)
        if shape == (count * d,) != (d,):  # over all at once: a head's own are after
            module = norm
    return module, torch.tensor(first)[:, None] + torch.arange(d)


def run_model(model, tokens: Tensor, mask: Tensor) -> Tensor:
    """[batch, seq, vocab]: logits; a prompt's first real token has position 0, wherever the padding is."""
    position_ids = (mask.long().cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(input_ids=tokens, attention_mask=mask.long(), position_ids=position_ids, use_cache=False).logits


@contextmanager
def editing(modules, edits: Sequence[Callable[[Tensor], Tensor | None]], side: str) -> Iterator[None]:
    """While open, the input (side="input") or output of each module passes through its edit; None leaves it alone."""
    with ExitStack() as stack:
        for module, edit in zip(modules, edits, strict=True):
            if side == "input":

                def before(_, args, edit=edit):
                    new = edit(args[0])
                    return None if new is None else (new, *args[1:])

                handle = module.register_forward_pre_hook(before)
            else:

                def after(_, args, output, edit=edit):
                    if not isinstance(output, tuple):
                        return edit(output)
                    new = edit(output[0])
                    return None if new is None else (new, *output[1:])

                handle = module.register_forward_hook(after)
            stack.callback(handle.remove)
        yield


def head_outputs(model, run) -> list[Tensor]:
    """Per layer [batch, seq, head, d_head]: z, every head's slice of the o_proj input."""
    kept: list[Tensor] = []
    modules = [out_projection(block) for block in blocks(model)]
    with editing(modules, [lambda z: kept.append(z.clone())] * len(modules), "input"):
        run_model(model, run.tokens, run.mask)
    return [z.unflatten(-1, (sizes(model)[0], -1)) for z in kept]


def answer_probability(logits: Tensor, last: Tensor, answer: Tensor) -> Tensor:
    """[batch]: probability of the answer, over the whole vocabulary, after the last token."""
    row = torch.arange(len(last))
    return logits[row, last].float().softmax(-1)[row, answer]


def path_patching(
    model, pair, senders: Sequence, receivers: Sequence = (), via: str | None = None, at: str = "last"
) -> tuple[Tensor, Tensor]:
    """p_base [batch] and p_patched [sender, batch] of the base's answer.

    Without receivers the path is the direct one into the logits; else it ends in the receivers' `via` input at `at`.
    """
    base = pair.base
    z_base, z_source = head_outputs(model, base), head_outputs(model, pair.source)
    p_base = answer_probability(run_model(model, base.tokens, base.mask), base.positions["last"], pair.answer)
    p_patched = []
    together = max(1, 480 // len(base.tokens))
    for start in range(0, len(senders), together):
        few = senders[start : start + together]
        logits = patched_logits(model, pair, (z_base, z_source), few, (receivers, via, at))
        last, answer = base.positions["last"].repeat(len(few)), pair.answer.repeat(len(few))
        p_patched.append(answer_probability(logits, last, answer).unflatten(0, (len(few), -1)))
    return p_base, torch.cat(p_patched)


def patched_logits(model, pair, z, senders: Sequence, path) -> Tensor:
    """[sender * batch, seq, vocab]: logits of run 1 (no receivers) or of run 2."""
    receivers, via, at = path
    tokens, mask = pair.base.tokens.repeat(len(senders), 1), pair.base.mask.repeat(len(senders), 1)
    o_projs = [out_projection(block) for block in blocks(model)]
    freezing = editing(o_projs, frozen_to_base(pair, z, senders, at), "input")
    if not receivers:
        with freezing:
            return run_model(model, tokens, mask)

    assert via is not None
    projections = {layer: projection(model, layer, via)[0] for layer, _ in receivers}
    after_run_1: list[Tensor] = []
    keep = [lambda out: after_run_1.append(out.clone())] * len(projections)
    with freezing, editing([projections[layer] for layer in sorted(projections)], keep, "output"):
        run_model(model, tokens, mask)

    p = pair.base.positions[at].repeat(len(senders))
    edits = [
        received(model, here, [h for layer, h in receivers if layer == here], (via, p), value)
        for here, value in zip(sorted(projections), after_run_1, strict=True)
    ]
    with editing([projections[layer] for layer in sorted(projections)], edits, "output"):
        return run_model(model, tokens, mask)


def frozen_to_base(pair, z, senders: Sequence, at: str) -> list[Callable[[Tensor], Tensor]]:
    """Run 1, an edit per layer: from p to n heads keep their base outputs, only the sender's at p is the source's."""
    z_base, z_source = z
    batch, seq = pair.base.tokens.shape
    place = torch.arange(seq)
    p, p_source = pair.base.positions[at], pair.source.positions[at]
    inside = (place >= p[:, None]) & (place <= pair.base.positions["last"][:, None])  # [batch, seq]
    row = torch.arange(batch)

    def edit(layer: int) -> Callable[[Tensor], Tensor]:
        def frozen(now: Tensor) -> Tensor:
            heads = now.unflatten(0, (len(senders), batch)).unflatten(-1, z_base[layer].shape[-2:])
            heads = torch.where(inside[None, :, :, None, None], z_base[layer], heads)  # [sender, batch, seq, head, d]
            for number, (sender_layer, index) in enumerate(senders):
                if sender_layer == layer:
                    heads[number, row, p, index] = z_source[layer][row, p_source, index]
            return heads.flatten(0, 1).flatten(-2)

        return frozen

    return [edit(layer) for layer in range(len(z_base))]


def received(model, layer: int, heads: Sequence[int], path: tuple[str, Tensor], value: Tensor):
    """Run 2, one layer: the receivers' projection outputs at p are those of run 1; k and v live per kv head."""
    (via, p), (count, kv_heads, _) = path, sizes(model)
    slots = {h if via == "query" else h // (count // kv_heads) for h in heads}
    columns, row = projection(model, layer, via)[1], torch.arange(len(p))

    def edit(out: Tensor) -> Tensor:
        new = out.clone()
        for slot in slots:
            new[row[:, None], p[:, None], columns[slot]] = value[row[:, None], p[:, None], columns[slot]]
        return new

    return edit


def replaced_logits(model, run, replaced: dict[int, Where]) -> Tensor:
    """[batch, vocab]: logits after the last token when, per layer, the marked heads output the given values."""
    modules = [out_projection(blocks(model)[layer]) for layer in sorted(replaced)]

    def edit(which: Tensor, value: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda z: torch.where(which[..., None], value, z.unflatten(-1, value.shape[-2:])).flatten(-2)

    with editing(modules, [edit(*replaced[layer]) for layer in sorted(replaced)], "input"):
        logits = run_model(model, run.tokens, run.mask)
    return logits[torch.arange(len(logits)), run.positions["last"]]


def activation_patched_logits(model, pair, heads: Sequence, at: str) -> Tensor:
    """[batch, vocab]: base logits when `heads` at `at` take the source's outputs, each run at its own position."""
    z_base, z_source = head_outputs(model, pair.base), head_outputs(model, pair.source)
    row = torch.arange(len(pair.base.tokens))
    p, p_source = pair.base.positions[at], pair.source.positions[at]
    replaced = {}
    for layer in {layer for layer, _ in heads}:
        which, value = torch.zeros(z_base[layer].shape[:3], dtype=torch.bool), torch.zeros_like(z_base[layer])
        for index in [index for here, index in heads if here == layer]:
            which[row, p, index] = True
            value[row, p, index] = z_source[layer][row, p_source, index]
        replaced[layer] = (which, value)
    return replaced_logits(model, pair.base, replaced)


def mean_head_outputs(model, run) -> list[Tensor]:
    """Per layer [seq, head, d_head]: mean of z over the prompts of `run`, all of one length, at each position."""
    return [z.mean(0) for z in head_outputs(model, run)]


def circuit_logits(model, run, means: Sequence[Tensor], kept: dict[str, set]) -> Tensor:
    """[batch, vocab]: last logits of the circuit: `kept` names per position the heads that are not mean-ablated."""
    batch, seq = run.tokens.shape
    row = torch.arange(batch)
    replaced = {}
    for layer, mean in enumerate(means):
        which = torch.ones(batch, seq, mean.shape[1], dtype=torch.bool)
        for position, heads in kept.items():
            for index in [index for here, index in heads if here == layer]:
                which[row, run.positions[position], index] = False
        replaced[layer] = (which, mean.expand(batch, -1, -1, -1))
    return replaced_logits(model, run, replaced)
