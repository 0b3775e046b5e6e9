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
    "How much of a model's accuracy the circuit keeps by itself, with every other head mean-ablated (Table 1).",
    tables_first=True,
)
CIRCUITS = Section(
    "circuits",
    "Circuits",
    "Which heads matter, traced back from the logits by path patching, and which of them minimality keeps (Figure 1).",
)
COMPLETENESS = Section(
    "completeness",
    "Completeness",
    "Circuit and model without the same heads: if the circuit is complete, both lose as much (Figures A3, A4, A6).",
)
ROLES = Section(
    "roles",
    "What the groups carry",
    "Which heads carry which variable, and whether they do in every model (Figures 3, A8, A9; Table A11).",
)
ACROSS = Section(
    "across",
    "Across models",
    "Head activations of one model patched into another: which step a fine-tuned model does better (Figure 4).",
)
KNOCKOUT = Section(
    "knockout",
    "Attention knockout",
    "From which layer on a position no longer needs another one (Figures A1, A2).",
)
OVERLAP = Section(
    "overlap",
    "Overlap of circuits",
    "Which heads two circuits share, and how much the others matter (Tables A6, A10; Figures A5, A7).",
)
ATTENTION = Section("attention", "Attention patterns", "Where the circuit's heads look.")
ATTRIBUTION = Section(
    "attribution", "Attribution", "Gradient estimates of every head's effect, next to the exact effects."
)
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
