#!/usr/bin/env bash
# One would guess: tokenizer.json is the whole tokenizer. It says how text is normalised and split, and a class of
#   tokenizer_config.json such as PreTrainedTokenizerFast adds no rules; the model's config.json has no say in it.
# Seen: AutoTokenizer looks up `model_type` in config.json. Beside "llama" it follows tokenizer.json. Beside "qwen2" it
#   makes a Qwen2Tokenizer from the vocabulary and merges, with Qwen2's own normaliser and splitting, and drops those of
#   the file without a word. Beside "llama" too, a class name of GPT2Tokenizer does the like.
# Means: a Qwen2 model with a tokenizer of its own, or a copied folder with another config.json, gets other tokens than
#   in training. Compare with `Tokenizer.from_file` of tokenizers on your own prompts, or load PreTrainedTokenizerFast.
# With: transformers 5.22.2 (models/auto/tokenization_auto.py), tokenizers 0.23.3, on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 tokenizers==0.23.3
cat > "$folder/try.py" <<'PY'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

TEXT = "The cat of 1984"
folder = Path(sys.argv[1])
whole = Tokenizer(models.BPE())
whole.normalizer = normalizers.Lowercase()
whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
whole.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>", "</s>"],
    show_progress=False,
)
whole.train_from_iterator([TEXT] * 5, trainer)


def write(named, model_type):
    folder.mkdir(exist_ok=True)
    whole.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named, **special}))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))


def show(tokens):
    return " ".join(token.replace("\u0120", "_") for token in tokens)


print("tokenizer.json by itself:", show(whole.encode(TEXT).tokens))
for named, model_type in (
    ("PreTrainedTokenizerFast", "llama"), ("PreTrainedTokenizerFast", "qwen2"), ("GPT2Tokenizer", "llama"),
):
    write(named, model_type)
    read = AutoTokenizer.from_pretrained(folder)
    print(f"{named} beside {model_type}, read as {type(read).__name__}:", show(read.tokenize(TEXT)))
write("PreTrainedTokenizerFast", "qwen2")
read = PreTrainedTokenizerFast.from_pretrained(folder)
print("PreTrainedTokenizerFast.from_pretrained beside qwen2:", show(read.tokenize(TEXT)))
PY
"$folder/venv/bin/python" "$folder/try.py" "$folder/model" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
tokenizer.json by itself: the _cat _of _1984
PreTrainedTokenizerFast beside llama, read as TokenizersBackend: the _cat _of _1984
PreTrainedTokenizerFast beside qwen2, read as Qwen2Tokenizer: T he _cat _of _ 1 9 8 4
GPT2Tokenizer beside llama, read as GPT2Tokenizer: T he _cat _of _1984
PreTrainedTokenizerFast.from_pretrained beside qwen2: the _cat _of _1984
SEEN
