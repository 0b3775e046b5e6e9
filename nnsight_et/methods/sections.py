"""The sections of the report that show methods' results, in the paper's order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A heading of the report, and what it says first."""

    anchor: str
    title: str
    lead: str
    tables_first: bool = False
    """Whether tables stand above the figures."""


FAITHFULNESS = Section(
    "faithfulness",
    "Faithfulness",
    "How much of a model's accuracy its circuit has alone, all other heads mean-ablated (Table 1).",
    tables_first=True,
)
CIRCUITS = Section(
    "circuits",
    "Circuits",
    "Which heads matter, found from the logits back by path patching, and what minimality left of them (Figure 1).",
)
COMPLETENESS = Section(
    "completeness",
    "Completeness",
    "Circuit and model without the same heads: a complete circuit loses what the model loses (Figures A3, A4, A6).",
)
ROLES = Section(
    "roles",
    "What the groups carry",
    "Which heads carry which variable, and whether they do so in every model (Figures 3, A8, A9; Table A11).",
)
ACROSS = Section(
    "across",
    "Across models",
    "A donor's head activations in a recipient: which step a fine-tuned model does better (Figure 4).",
)
KNOCKOUT = Section(
    "knockout",
    "Attention knockout",
    "From which layer on a position has what it needs from another (Figures A1, A2).",
)
OVERLAP = Section(
    "overlap",
    "Overlap of circuits",
    "How many heads two circuits share, and how much the others matter (Tables A6, A10; Figures A5, A7).",
)
ATTENTION = Section("attention", "Attention patterns", "Where the circuit's heads look.")
ATTRIBUTION = Section("attribution", "Attribution", "A gradient's estimate of every head's effect, beside exact ones.")
SECTIONS = (
    FAITHFULNESS,
    CIRCUITS,
    COMPLETENESS,
    ROLES,
    ACROSS,
    KNOCKOUT,
    OVERLAP,
    ATTENTION,
    ATTRIBUTION,
)
