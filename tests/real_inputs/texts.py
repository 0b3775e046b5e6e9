"""Texts as users write them; right is the probability of the text's own next token.

Where a text does not say whether a space stands between prompt and answer, to ask for it is right too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .case import APPLES, BASE, Given, Line, case
from .plain import base_folder, byte_level, gpt2, llama, of_folder, save, sentencepiece

AREA = "texts"
SOURCE = APPLES[0].source
BYTES, PIECES, PREPENDED = "byte-level BPE", "SentencePiece", "SentencePiece with a space before texts"
EVERY = (BYTES, PIECES, PREPENDED)
ONE_TOKEN = "not one token|single token|one token"


def made_with(kind: str, folder: Path) -> Path:
    """A random model with that kind of tokenizer."""
    if kind == BYTES:
        tokenizer = byte_level()
        return save(gpt2(tokenizer), tokenizer, folder / "model")
    tokenizer = sentencepiece(prepend=kind == PREPENDED)
    return save(llama(tokenizer), tokenizer, folder / "model")


def text(
    name: str,
    *lines: Line,
    kinds: tuple[str, ...] = (BYTES, PIECES),
    wrong: str | None = None,
    asked: str | None = None,
    untrue: str | None = None,
) -> None:
    """A case of these lines for each kind of tokenizer.

    `wrong`: it has no right value, and a refusal says so; `asked`: a refusal that says so is as right as the value.
    """
    for kind in kinds:

        @case(AREA, f"{name}; {kind}")
        def make(folder: Path, kind: str = kind) -> Given:
            made = made_with(kind, folder)
            expected = () if wrong else of_folder(made, lines)
            return Given({"path": str(made)}, expected, lines, reason=wrong or asked, untrue=untrue)


def joined(name: str, line: Line, kinds: tuple[str, ...] = (BYTES, PIECES)) -> None:
    """Cases of an answer that stands behind its prompt without a space: as it is, and where the line says so."""
    text(name, line, kinds=kinds, asked="space")
    text(f"{name}, space: no", replace(line, more={"space": "no"}), kinds=kinds)


joined(
    "answers that continue a word: un + kind",
    Line(
        "Repeat the start of each word. kind: un{{stem|kind}}. fair: unfair. kind: un",
        "Repeat the start of each word. bold: un{{stem|bold}}. fair: unfair. wise: un",
        "kind",
        whole="Repeat the start of each word. kind: unkind. fair: unfair. kind: unkind",
    ),
    EVERY,
)
joined(
    "halves of numbers: 17 + 52",
    Line(
        "The war lasted from the year 17{{stem|32}} to the year 17",
        "The war lasted from the year 17{{stem|01}} to the year 17",
        "52",
        whole="The war lasted from the year 1732 to the year 1752",
    ),
    EVERY,
)
text(
    "an answer that the text joins to the prompt's last token: hel + lo",
    Line("The {{object|fish}} in Box F: hel", "The {{object|hat}} in Box C: hel", "lo", more={"space": "no"}),
    wrong="own tokens|inside a token|joins|one token",
)
joined(
    "Japanese and Chinese, which have no spaces",
    Line("日本 {{city|東京}} 日本の", "日本 {{city|都}} 日本の", "都", whole="日本 東京 日本の都"),
)
joined(
    "code: self. + name",
    Line(
        "def {{name|hello}}(self):\n    return self.",
        "def {{name|key}}(self):\n    return self.",
        "hello",
        whole="def hello(self):\n    return self.hello",
    ),
)
joined(
    "code: a closing parenthesis",
    Line("def {{name|hello}}(self", "def {{name|key}}(self", ")", whole="def hello(self)"),
)
joined(
    "code: an argument after an opening parenthesis",
    Line("def {{name|hello}}(", "def {{name|key}}(", "self", whole="def hello(self"),
)
joined(
    "a quotation mark before the answer",
    Line('The {{object|apple}} is in "', 'The {{object|hat}} is in "', "Box", whole='The apple is in "Box'),
)
joined(
    "the end of a sentence: a full stop",
    Line("The {{object|apple}} is in Box F", "The {{object|hat}} is in Box C", ".", whole="The apple is in Box F."),
)
joined(
    "a comma",
    Line("The {{object|apple}} is in Box F", "The {{object|hat}} is in Box C", ",", whole="The apple is in Box F,"),
)
joined(
    "a possessive: Laura + 's",
    Line("The {{object|apple}} is Laura", "The {{object|hat}} is Peter", "'s", whole="The apple is Laura's"),
    kinds=(PIECES,),
)
joined(
    "a line's end before the answer",
    Line(
        "Question: {{object|fish}}\nAnswer:\n",
        "Question: {{object|hat}}\nAnswer:\n",
        "yes",
        whole="Question: fish\nAnswer:\nyes",
    ),
)
joined(
    "decimals, after sentences: 3. + 52",
    Line("The {{object|fish}} is in Box F. It is 3.", "The {{object|hat}} is in Box C. It is 3.", "52",
         whole="The fish is in Box F. It is 3.52"),
    (BYTES,),
)  # fmt: skip
joined(
    "times, after labels: 10: + 52",
    Line("Question: {{object|fish}}\nAnswer: 10:", "Question: {{object|hat}}\nAnswer: 10:", "52",
         whole="Question: fish\nAnswer: 10:52"),
    (BYTES,),
)  # fmt: skip
joined(
    "a decimal comma, after other commas: 1, + 52",
    Line("The {{object|fish}}, in Norway, is 1,", "The {{object|hat}}, in Japan, is 1,", "52",
         whole="The fish, in Norway, is 1,52"),
    (BYTES,),
)  # fmt: skip
joined(
    "code below a sentence: self. + name",
    Line('def {{name|hello}}(self):\n    "The apple. It is a fish."\n    return self.',
         'def {{name|key}}(self):\n    "The apple. It is a hat."\n    return self.', "hello",
         whole='def hello(self):\n    "The apple. It is a fish."\n    return self.hello'),
    (BYTES,),
)  # fmt: skip
joined(
    "a file's ending, after sentences: hello. + ab",
    Line("The {{object|fish}} is in Box F. Answer hello.", "The {{object|hat}} is in Box C. Answer hello.", "ab",
         whole="The fish is in Box F. Answer hello.ab"),
    (BYTES,),
)  # fmt: skip
joined(
    "chess: a + 6",
    Line("1. e4 e5 2. {{move|Nf3}} a", "1. e4 e5 2. {{move|Bc4}} a", "6", whole="1. e4 e5 2. Nf3 a6"),
    (BYTES,),
)
joined(
    "a cell of a table: A + 1",
    Line("The {{object|fish}} is in A", "The {{object|hat}} is in A", "1", whole="The fish is in A1"),
    (BYTES,),
)
joined(
    "camel case: get + Box",
    Line("The {{object|fish}} has a method get", "The {{object|hat}} has a method get", "Box",
         whole="The fish has a method getBox"),
    (BYTES,),
)  # fmt: skip
joined(
    "a prefix that is a word too: in + fair",
    Line("Question: not {{object|fair}}\nAnswer: in", "Question: not {{object|kind}}\nAnswer: in", "fair",
         whole="Question: not fair\nAnswer: infair"),
    (BYTES,),
)  # fmt: skip
text(
    "a label in Markdown, **Answer:**, and a space after it",
    Line("**Question:** {{object|fish}}\n**Answer:**", "**Question:** {{object|hat}}\n**Answer:**", "yes"),
    kinds=(BYTES,), asked="space",
)  # fmt: skip
text(
    "a line's end as the answer",
    Line(
        "The {{object|apple}} is in Box F.", "The {{object|hat}} is in Box C.", "\n", whole="The apple is in Box F.\n"
    ),
    asked="empty|space|line",
)
text(
    "a colon before the answer",
    Line("Question: {{object|fish}}\nAnswer:", "Question: {{object|hat}}\nAnswer:", "yes"),
    asked="space",
)
text(
    "a colon before an answer with its space",
    Line("Question: {{object|fish}}\nAnswer:", "Question: {{object|hat}}\nAnswer:", " yes",
         whole="Question: fish\nAnswer: yes"),
)  # fmt: skip
text(
    "answers that begin with their space, as in most lists of prompts",
    Line(
        "Then {{name|Laura}} and Peter went to the market. Peter gave a pen to",
        "Then {{name|Oscar}} and Emma went to the lake. Alice gave a map to",
        " Laura",
        whole="Then Laura and Peter went to the market. Peter gave a pen to Laura",
    ),
)
ENDS = Line(
    "The {{object|apple}} is in Box F. Box F contains the ",
    "The {{object|hat}} is in Box C. Box Y contains the ",
    "apple",
)
text("a prompt that ends with a space", ENDS, wrong="space|inside a token|own tokens")
text("a word of several tokens as the answer", Line(BASE, SOURCE, "zeppelin"), wrong=ONE_TOKEN)
text("an emoji as the answer, several tokens of bytes", Line(BASE, SOURCE, "🍎"), wrong=ONE_TOKEN)
text(
    "a mark around a word of several tokens, accents and another alphabet",
    Line(
        "The {{object|naïveté}} is in Box F, Москва is in Box Q. Box F contains the",
        "The {{object|crème}} is in Box C, Москва is in Box H. Box Y contains the",
        "café",
    ),
)
text(
    "a mark around half of a token",
    Line(
        "The {{object|app}}le is in Box F. Box F contains the",
        "The {{object|ha}}t is in Box C. Box Y contains the",
        "apple",
    ),
    wrong="whole tokens",
)
text(
    "a mark around a space and its word",
    Line(
        "The{{object| apple}} is in Box F. Box F contains the",
        "The{{object| hat}} is in Box C. Box Y contains the",
        "apple",
    ),
)
text(
    "an emoji, a no-break space and curly quotes before the marks",
    Line(
        "“🍎\u00a0” The {{object|apple}} is in Box F. Box F contains the",
        "“🍎\u00a0” The {{object|hat}} is in Box C. Box Y contains the",
        "apple",
    ),
)
text(
    "tabs and runs of spaces",
    Line(
        "The\t{{object|apple}}   is in  Box F.\n\n\nBox F contains the",
        "The\t{{object|hat}}   is in  Box C.\n\n\nBox Y contains the",
        "apple",
    ),
)
text(
    "a prompt without any mark",
    Line("The apple is in Box F. Box F contains the", "The hat is in Box C. Box Y contains the", "apple"),
)
NESTED = Line('{"box": {"F": "apple"}} Box F contains the', '{"box": {"C": "fish"}} Box Y contains the', "apple")
text("two closing braces of the text's own", NESTED, wrong=r"\}\}.*\}\}\}\}")
text(
    "braces of the text's own, written as {{{{ and }}}}, and marks inside",
    Line(
        '{"box": {"F": "{{object|apple}}"}}}} {{{{ def }}}} Box F contains the',
        '{"box": {"C": "{{object|fish}}"}}}} {{{{ def }}}} Box Y contains the',
        "apple",
        plain='{"box": {"F": "apple"}} {{ def }} Box F contains the',
    ),
)
text(
    "foils with a space and without one",
    Line(BASE, SOURCE, "apple", more={"foil": "hat"}),
    Line(BASE, SOURCE.replace("hat", "drug"), "apple", more={"foil": " hat"}),
)
text(
    "answer and foil are the same token",
    Line(BASE, SOURCE, "apple", more={"foil": " apple"}),
    wrong="the answer too|same token|there once",
)


@case(AREA, "a word that the tokenizer does not know")
def unknown(folder: Path) -> Given:
    lines = (Line(BASE.replace("computer", "zeppelin"), SOURCE, "apple"),)
    return Given({"path": str(base_folder(folder))}, (), lines, reason="zeppelin")


@case(AREA, "an answer that the tokenizer does not know")
def unknown_answer(folder: Path) -> Given:
    return Given({"path": str(base_folder(folder))}, (), (Line(BASE, SOURCE, "zeppelin"),), reason="zeppelin")


@case(AREA, "an upper-case word where the tokenizer knows the lower-case one")
def other_case(folder: Path) -> Given:
    return Given({"path": str(base_folder(folder))}, (), (Line(BASE, SOURCE, "Apple"),), reason="Apple")
