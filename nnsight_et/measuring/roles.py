"""Which heads of a circuit's groups DCM selected for which desideratum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nnsight_et.circuits import published
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.errors import TaskError, accepted_names
from nnsight_et.tasks.desiderata import VARIANTS


@dataclass(frozen=True)
class SelectedHeads:
    """A circuit, and group -> desideratum -> the heads selected for it."""

    circuit: Circuit
    selected: Mapping[str, Mapping[str, tuple[Head, ...]]]

    @classmethod
    def from_shipped(cls, name: str) -> SelectedHeads:
        """The selections in the shipped circuit of a model: the paper's, or an embedded model's."""
        return cls(published.circuit(name), published.selections(name))

    @classmethod
    def whole_groups(cls, circuit: Circuit, desiderata: Sequence[str]) -> SelectedHeads:
        """All heads of each group that has any, for each of the desiderata."""
        return cls(
            circuit, {group.name: dict.fromkeys(desiderata, group.heads) for group in circuit.groups if group.heads}
        )

    @property
    def desiderata(self) -> tuple[str, ...]:
        """The desiderata that heads were selected for, in the order they were tried."""
        return tuple(dict.fromkeys(name for chosen in self.selected.values() for name in chosen))

    def heads(self, group: HeadGroup, desideratum: str) -> tuple[Head, ...]:
        """The group's heads for a desideratum; for a variant of position that was not trained, those for position."""
        chosen = self.selected.get(group.name, {})
        name = "position" if desideratum in VARIANTS and desideratum not in chosen else desideratum
        if name not in chosen:
            raise TaskError(f"no heads of {group.name} were selected for {name}; {accepted_names(name, chosen)}")
        return chosen[name]

    def sets(self, desideratum: str) -> list[Circuit]:
        """Per group with selected heads, those for the desideratum as a circuit of their own."""
        groups = [group for group in self.circuit.groups if group.name in self.selected]
        return [Circuit((HeadGroup(one.name, one.at, self.heads(one, desideratum)),)) for one in groups]
