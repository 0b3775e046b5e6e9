"""ndif's model actor without a GPU; named by NDIF_MODEL_IMPORT_PATH, so that the package stays as it was published."""
# pyright: reportMissingImports=false, reportReturnType=false

from __future__ import annotations

import ray
import torch
from ndif.services.ray.sandbox import host
from ndif.services.ray.sandbox.model import SandboxModelDeployment
from nnsight.modeling.huggingface import HuggingFaceModel

if not torch.cuda.is_available():
    torch.cuda.synchronize = lambda device=None: None  # called after every request; raises where there is no driver
host.RUNNER_ENV += (
    "HF_ENDPOINT",
)  # a runner's short list of variables lacks it, and the runner reads the model's config


class OnCpu(SandboxModelDeployment):
    """Trusted requests in its own process, the others in a process per request; weights in memory, not on a GPU."""

    CACHEABLE = False  # parking weights and bringing them back are written for CUDA

    def load_from_disk(self) -> HuggingFaceModel:
        """The model on the CPU, its weights frozen; ndif's own version places it on GPUs and checks that."""
        device = {"dispatch": True, "dtype": self.dtype_name, "device": "cpu"}
        model = HuggingFaceModel.from_model_key(self.model_key, **device, **self.kwargs)
        model._module.requires_grad_(False)
        return model


@ray.remote(num_cpus=1, max_restarts=-1)
class CpuActor(OnCpu):
    """The actor. Ray ships it by value; its base, by name, so that this file is imported where it runs."""
