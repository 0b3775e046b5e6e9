"""Two devices where there is one: tensors with numbers that say they are elsewhere, and may not meet."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

from nnsight_et.models.families import architecture
from nnsight_et.models.model import Model
from tests.helpers.tiny_model import tiny_model

FIRST, SECOND = (torch.device("lazy", index) for index in range(2))  # of a kind that PyTorch need not start
CPU = torch.device("cpu")


class Elsewhere(Tensor):
    """A tensor that is said to be on `device`; `numbers` are on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor, device: torch.device) -> Elsewhere:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=device,
            requires_grad=numbers.requires_grad,
        )

    def __init__(self, numbers: Tensor, device: torch.device) -> None:
        self.numbers = numbers.detach()

    def tolist(self) -> Any:
        return self.numbers.tolist()

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"{self.numbers} on {self.device}"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carried_out(function, args, kwargs or {})


class Apart(TorchDispatchMode):
    """Makes tensors where they are asked for, and refuses operations between devices."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carried_out(function, args, kwargs or {})


def carried_out(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What the operation gives, on the device that it is asked for, or the one that all its tensors are on."""
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
    wanted, packet = kwargs.get("device"), function.overloadpacket
    moves = packet in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
    found = {one.device for one in tensors if one.ndim}  # single numbers of the CPU may meet all
    if packet in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_):
        found -= {CPU} if args[0].device != CPU else set()  # and so may indices
    found = found or {one.device for one in tensors}
    if len(found) > 1 and not moves:
        raise RuntimeError(f"{function}: tensors on {sorted(map(str, found))}")
    device = torch.device(wanted) if wanted is not None else tensors[0].device if moves else next(iter(found), CPU)
    if "device" in kwargs:
        kwargs = {**kwargs, "device": CPU}
    plain = tree_map(lambda one: one.numbers if isinstance(one, Elsewhere) else one, (args, kwargs))
    outcome = function(*plain[0], **plain[1])
    there = tree_map(lambda one: Elsewhere(one, device) if isinstance(one, Tensor) and device != CPU else one, outcome)
    return return_and_correct_aliasing(function, args, kwargs, there) if device != CPU else there


@contextmanager
def apart() -> Iterator[None]:
    """While devices are kept apart, in every thread that starts."""
    run, autocast = threading.Thread.run, torch.is_autocast_enabled

    def in_mode(self: threading.Thread) -> None:
        with Apart():
            run(self)

    threading.Thread.run = in_mode  # type: ignore[method-assign]
    torch.is_autocast_enabled = lambda *_: False  # it does not know the devices
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) makes them on the CPU and moves them
    try:
        with Apart():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        torch.is_autocast_enabled = autocast
        threading.Thread.run = run  # type: ignore[method-assign]


def on(module: Any, devices: Sequence[torch.device], attention: str = "sdpa") -> Model:
    """The module as the package's Model, each layer on its device: what comes before them on the first, after last."""
    layers = attrgetter(architecture(module.config, "tiny").layers)(module)
    places = {id(one): device for layer, device in zip(layers, devices, strict=True) for one in layer.modules()}
    for part in module.modules():
        device = places.get(id(part), devices[-1] if part is module.get_output_embeddings() else devices[0])
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    there = Elsewhere(tensor.detach(), device)
                    table[name] = torch.nn.Parameter(there, False) if table is part._parameters else there
        if part._parameters or part._buffers or id(part) in places:
            hook = AlignDevicesHook(execution_device=device, skip_keys=module._skip_keys_device_placement)
            add_hook_to_module(part, hook)
    if module.config.model_type in ("mixtral", "qwen2_moe", "qwen3_moe"):
        module.set_experts_implementation("eager")  # the grouped one does on a CPU what it does nowhere else
    module.hf_device_map = {"": devices[0]}  # as models have that are on several devices: they are left where they are
    return tiny_model(module, attention)
