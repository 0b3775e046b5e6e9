"""The models of the server, and where they are."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class UnknownModel(Exception):
    """Its text is the name of a model without a folder."""


@dataclass
class Hosted:
    """The models of the server, loaded when first asked for."""

    folders: dict[str, str]
    models: dict[str, Any] = field(default_factory=dict)

    def folder(self, name: str) -> str | None:
        """Where a model or an adapter is: the folder it was given, or its name if that is one."""
        found = self.folders.get(name, name)
        return found if Path(found).is_dir() else None

    def load(self, key: str) -> dict[str, Any]:
        """Load a model if it is not loaded yet; facts about it."""
        if key not in self.models:
            self.models[key] = self.load_model(key, dispatch=True, dtype="float32", device="cpu")
            self.models[key]._module.requires_grad_(False)
        return {}

    def load_model(self, key: str, **how: Any) -> Any:
        """The model of a key, from its folder; UnknownModel without one."""
        from nnsight.modeling.mixins.remotable import Remotable
        from transformers import AutoTokenizer

        kind, _, rest = key.partition(":")
        parts = json.loads(rest)
        folder = self.folder(parts["repo_id"])
        if folder is None:
            raise UnknownModel(parts["repo_id"])
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)  # nnsight 0.8.1 may not find it
        return Remotable.from_model_key(f"{kind}:{json.dumps(parts | {'repo_id': folder})}", tokenizer=tokenizer, **how)

    def environment(self, env: dict[str, Any]) -> dict[str, Any]:
        """A request's environment with the adapter's name made a folder."""
        adapter = env.get("peft")
        return env if adapter is None else env | {"peft": self.folder(adapter) or adapter}


@dataclass
class Order:
    """What the worker needs of a job."""

    key: str
    env: dict[str, Any]
    compress: bool
    blob: bytes
