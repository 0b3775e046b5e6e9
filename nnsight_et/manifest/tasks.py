"""The built-in tasks as a manifest writes them."""

from __future__ import annotations

from string import ascii_uppercase
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from nnsight_et.manifest.written import Count, SpecModel


class BoxesTask(SpecModel):
    """The paper's entity tracking task: name the object in the box that the prompt asks about (§3)."""

    all_positions: ClassVar[tuple[str, ...]] = ("correct_object", "previous_query_label", "query_label", "last")

    kind: Literal["boxes"] = "boxes"
    boxes: Count = 7
    """How many boxes a prompt has: 2 to 12."""
    objects: tuple[str, ...] | None = None
    """Your own objects, each a single token of the model's tokenizer; by default the paper's."""

    @field_validator("boxes")
    @classmethod
    def enough_letters(cls, boxes: int) -> int:
        """A base and a source need a letter per box each, and one more is asked for."""
        if not 2 <= boxes <= 12:
            need = {"need": 2 * boxes + 1, "boxes": boxes, "letters": len(ascii_uppercase)}
            text = "{boxes} boxes need {need} letters, but there are {letters}; accepted: 2 to 12"
            if boxes < 2:
                text = "{boxes} box leaves nothing to track; accepted: 2 to 12"
            raise PydanticCustomError("boxes", text, need)
        return boxes

    @property
    def identity(self) -> dict[str, Any]:
        """What is computed on, as plain data."""
        return self.model_dump(mode="json")


FEWEST_NAMES = 5
S1_POSITIONS = ("s1", "s1_plus_1")
OF_OWN, OF_WANG = 8, 15  # sentences
IOI_DESIDERATA = ("name", "position", "duplicate")
"""What the answer depends on: the indirect object's name, where the repeated name stood first, and which it is."""


class IOITask(SpecModel):
    """Indirect object identification: "Then, Mary and John went to the store. John gave a drink to" -> "Mary".

    Wang et al. 2022. Positions: io (the answer), s1 and s2 (the subject), s1_plus_1 (the token after s1), last.
    """

    version: ClassVar[int] = 1  # of the generator: raised when the same words start to mean other prompts

    kind: Literal["ioi"]
    order: Literal["mixed", "ABBA", "BABA"] = "mixed"
    """Who is named first: the indirect object (ABBA), the subject (BABA), or either, drawn per prompt (mixed)."""
    templates: Annotated[int, Field(ge=1, le=OF_WANG, strict=True)] = OF_OWN
    """How many of the sentences to use; by default all: 8, or the 15 of Wang et al.

    With 1, all prompts have the same length, and means are taken token by token.
    """
    names: Annotated[tuple[str, ...], Field(min_length=FEWEST_NAMES)] | None = None
    """Your own names, each a single token of the model's tokenizer; by default the 152 built-in names that are."""
    sentences: Literal["own", "wang"] | None = None
    """`wang`: the 15 sentences of Wang et al., Appendix E; by default 8 similar ones."""
    sentence: Annotated[int, Field(ge=1, le=OF_WANG, strict=True)] | None = None
    """Use only the sentence with this number, so that all prompts have the same length. `templates` is then ignored."""
    sources: Literal["other_names", "symmetric"] | None = None
    """`other_names` (the default): the source has three other names in the same sentence (their p_ABC).

    `symmetric`: it has the same names, but the other person gives, so that its answer is the base's foil.
    """

    @property
    def used(self) -> int:
        """How many sentences are used: of Wang et al. all 15, unless another number is said."""
        return OF_WANG if self.sentences == "wang" and "templates" not in self.model_fields_set else self.templates

    @property
    def all_positions(self) -> tuple[str, ...]:
        """The named positions of a prompt, in its order; of mixed orders as in ABBA."""
        first = (*S1_POSITIONS, "io") if self.order == "BABA" else ("io", *S1_POSITIONS)
        return (*first, "s2", "last")

    @property
    def identity(self) -> dict[str, Any]:
        """What is computed on, as plain data."""
        later = {key for key in ("sentences", "sentence", "sources") if getattr(self, key) is None}
        return self.model_dump(mode="json", exclude=later) | {"templates": self.used, "version": self.version}

    def is_unordered(self, one: str, other: str) -> bool:
        """Whether now one and now the other of two positions comes first."""
        pair = {one, other}
        return self.order == "mixed" and "io" in pair and not pair.isdisjoint(S1_POSITIONS)


class GreaterThanTask(SpecModel):
    """Greater-than: "The war lasted from the year 1732 to the year 17" -> any two digits above 32 (Hanna et al. 2023).

    For tokenizers that split years into single digits: "... to the year 173" -> any digit above 2. Positions:
    start_year (the digits that the answer must exceed), last.
    """

    version: ClassVar[int] = 1  # of the generator: raised when the same words start to mean other prompts
    all_positions: ClassVar[tuple[str, ...]] = ("start_year", "last")

    kind: Literal["greater_than"]

    @property
    def identity(self) -> dict[str, Any]:
        """What is computed on, as plain data."""
        return self.model_dump(mode="json") | {"version": self.version}


class ColoredObjectsTask(SpecModel):
    """Colored objects: "... I see a red pen, a blue cup, and a green bowl. What color is the cup?\nA:" -> "blue".

    Ippolito and Callison-Burch 2022; Merullo et al. 2024. An answered question of the same form comes first.
    Positions: color (the answer's mention), object (the noun behind it), asked (the noun in the question), last.
    """

    version: ClassVar[int] = 1  # of the generator: raised when the same words start to mean other prompts
    all_positions: ClassVar[tuple[str, ...]] = ("color", "object", "asked", "last")

    kind: Literal["colored_objects"]

    @property
    def identity(self) -> dict[str, Any]:
        """What is computed on, as plain data."""
        return self.model_dump(mode="json") | {"version": self.version}
