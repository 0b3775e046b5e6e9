"""The word-level tokenizer of the embedded and the planted models, in the Hugging Face format."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nnsight_et.tasks.boxes import LABELS, OBJECTS

PAD, BOS, EOS, UNKNOWN = SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
BOXES_WORDS = "The the is in Box contains , . Boxes box boxes"
VARIANT_WORDS = """There There's there are a an bunch of containing objects object these These contained not three
    additional two four some other and PP BB AA"""
REPHRASED_WORDS = """Inside inside we find holds hold What what does contain It it has In put with within lies USER
    ASSISTANT Which which thing please answer Answer question Question"""
ARITHMETIC_WORDS = """0 1 2 3 4 5 6 7 8 9 + - * / = ? : plus minus times divided by sum difference product quotient
    Compute compute Calculate equals result number numbers R"""
OTHER_WORDS = """this This that was were be to on at for from as but or so he she they I you all one out up down by then
    than more very good old new day year man woman people time way world house water hand head light night
    city street tree long short small large red blue green white black says said went came made see look think
    know with ; ! ' ( )"""


def vocabulary() -> tuple[str, ...]:
    """Every token, its index being its id: special tokens, objects, labels, then all other words."""
    others = " ".join((BOXES_WORDS, VARIANT_WORDS, REPHRASED_WORDS, ARITHMETIC_WORDS, OTHER_WORDS)).split()
    return tuple(dict.fromkeys((*SPECIAL, *OBJECTS, *LABELS, *others)))


def word_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: one token per word, digit or mark; it puts <s> in front and knows where each token's text is."""
    ids = {word: number for number, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(behavior="isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # "Box F , the" becomes "Box F, the"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        pad_token=PAD,
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
