"""The token that begins a text: when it is missed, what is told then, and adding or removing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

import nnsight_et
from nnsight_et.core.errors import ManifestError, UnsupportedModel
from nnsight_et.manifest import parse
from nnsight_et.models import tokenizing
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.models.files import describe_files
from nnsight_et.models.load import tokenizer_of
from nnsight_et.models.tokenizing import TEXT, WORSE, bos_comparison_run, leading, notices_of_losses, set_bos
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import read_header
from nnsight_et.tasks.boxes import LABELS, OBJECTS
from tests.helpers.commands import et
from tests.helpers.tiny_model import hf_llama

WORDS = list(dict.fromkeys(TEXT.replace(".", " .").replace(",", " ,").split()))
VOCABULARY = list(
    dict.fromkeys(["<s>", "<pad>", "<unk>", "</s>", "a", *WORDS, "is", "in", "Box", "contains", *OBJECTS, *LABELS])
)
BOS, END = 0, 3


def words(begins: bool, ends: bool = False, knows: bool = True) -> PreTrainedTokenizerFast:
    """A word a token, with the BOS <s> in front or not, </s> behind or not; unless it `knows`, without the text's."""
    known = VOCABULARY if knows else [f"~{word}" if word in WORDS else word for word in VOCABULARY]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(known)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    form = " ".join(["<s>"] * begins + ["$A"] + ["</s>"] * ends)
    if begins or ends:
        special: Any = [("<s>", BOS), ("</s>", END)]
        inner.post_processor = processors.TemplateProcessing(single=form, special_tokens=special)
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **named)


def taught(needs: bool) -> Any:
    """A small model that knows the text by heart behind BOS; without it as well, or else it only repeats each word."""
    model = hf_llama(layers=2, heads=2, kv_heads=2, vocab_size=len(VOCABULARY)).requires_grad_(True)
    return teach(model, needs).requires_grad_(False)


def teach(model: Any, needs: bool) -> Any:
    """The model, what is trainable of it changed until it does that."""
    text = torch.tensor([words(begins=False)(TEXT)["input_ids"]])
    behind = torch.cat([torch.tensor([[BOS]]), text], 1)
    wanted = text[:, :-1] if needs else text[:, 1:]
    model.train()
    steps = torch.optim.Adam((one for one in model.parameters() if one.requires_grad), lr=0.01)
    for _ in range(60):
        with_it = torch.nn.functional.cross_entropy(model(behind).logits[0, :-1], text[0])
        without = torch.nn.functional.cross_entropy(model(text).logits[0, :-1], wanted[0])
        steps.zero_grad()
        (with_it + without).backward()
        steps.step()
    return model.eval()


def folder_of(place: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A random model's folder, with this tokenizer."""
    hf_llama(vocab_size=len(VOCABULARY)).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def needing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that needs BOS, beside a tokenizer that does not put it in front."""
    folder = tmp_path_factory.mktemp("needing") / "model"
    taught(needs=True).save_pretrained(folder)
    words(begins=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that is as good without BOS."""
    folder = tmp_path_factory.mktemp("content") / "model"
    taught(needs=False).save_pretrained(folder)
    words(begins=False).save_pretrained(folder)
    return folder


def test_a_model_that_needs_the_bos_which_prompts_lack_is_told_of(needing: Path):
    (notice,) = nnsight_et.load(str(needing)).notices
    assert (notice.kind, notice.where) == ("bos", str(needing))
    assert "begin without <s>" in notice.text
    assert "bos: add" in notice.text


def test_with_its_bos_there_is_nothing_to_tell(needing: Path):
    model = nnsight_et.load(str(needing), bos="add")
    assert model.notices == ()
    assert model.tokenizer("the house")["input_ids"][0] == BOS


def test_a_model_that_is_as_good_without_is_not_told_of(content: Path):
    assert nnsight_et.load(str(content)).notices == ()


def test_a_model_and_a_tokenizer_in_memory_are_compared_too_and_the_tokenizer_stays_as_it_is(needing: Path):
    own, module = words(begins=False), taught(needs=True)
    (notice,) = nnsight_et.load(module, own).notices
    assert notice.kind == "bos"
    assert nnsight_et.load(module, own, bos="add").notices == ()
    assert own("the")["input_ids"][0] != BOS


@pytest.mark.parametrize(
    "tokenizer", [words(begins=True), words(begins=False, knows=False)], ids=["begins with it", "knows no English"]
)
def test_nothing_is_run_where_there_is_nothing_to_compare(tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokenizing, "text_losses", lambda *_: pytest.fail("a pass was run"))
    assert nnsight_et.load(hf_llama(vocab_size=len(VOCABULARY)), tokenizer).notices == ()


def test_the_text_is_compared_without_what_a_tokenizer_puts_behind_it():
    config = hf_llama(vocab_size=len(VOCABULARY)).config
    plain, ended = (bos_comparison_run(words(begins=False, ends=ends), config) for ends in (False, True))
    assert plain is not None
    assert ended is not None
    assert torch.equal(plain.tokens, ended.tokens)
    assert plain.tokens[:, -1].tolist() == [VOCABULARY.index(".")] * 2


def test_an_end_that_is_the_beginning_too_does_not_begin_texts():
    tokenizer = words(begins=False)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <s>", special_tokens=[("<s>", BOS)]
    )
    assert (leading(tokenizer, BOS), leading(words(begins=True, ends=True), BOS)) == (0, 1)


def test_a_text_longer_than_a_table_of_positions_or_with_tokens_beyond_the_rows_is_not_compared():
    tokenizer = words(begins=False)
    length = len(tokenizer(TEXT)["input_ids"])
    sizes: dict[str, Any] = {"vocab_size": len(VOCABULARY), "n_embd": 8, "n_head": 2, "n_layer": 1}
    for positions, compared in ((length, False), (length + 1, True)):
        run = bos_comparison_run(tokenizer, GPT2Config(n_positions=positions, **sizes))
        assert (run is not None) is compared
    rows = max(tokenizer(TEXT)["input_ids"])
    for count, compared in ((rows, False), (rows + 1, True)):
        run = bos_comparison_run(tokenizer, GPT2Config(n_positions=length + 1, **sizes | {"vocab_size": count}))
        assert (run is not None) is compared


def test_a_bos_of_the_configuration_counts_where_it_is_a_special_token_of_the_tokenizer():
    config = hf_llama(vocab_size=len(VOCABULARY), bos_token_id=VOCABULARY.index("a")).config
    other = words(begins=False)
    other.bos_token = None
    assert bos_comparison_run(other, config) is None
    config.bos_token_id = other.pad_token_id
    assert bos_comparison_run(other, config) is None
    config.bos_token_id = END
    run = bos_comparison_run(other, config)
    assert run is not None
    assert run.tokens[0, 0] == END
    assert run.mask[:, 0].tolist() == [1, 0]


def test_how_much_worse_a_text_must_be():
    """Measured: Gemma-3-270M 2.59 and 5.51 nats a token, SmolLM2-135M 2.65 and 2.49."""
    tokenizer, config = words(begins=False), hf_llama(vocab_size=len(VOCABULARY)).config

    def told(behind: float, without: float) -> int:
        return len(notices_of_losses("m", tokenizer, config, (behind, without)))

    assert told(2.59, 5.51) == 1
    assert told(2.65, 2.49) == 0
    assert told(2.0, 2.0 + 1.01 * WORSE) == 1
    assert told(2.0, 2.0 + 0.99 * WORSE) == 0
    assert told(5.51, 2.59) == 0


FORMS = {
    "nothing": None,
    "end": processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)]),
    "bos": processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)]),
    "both, in turn": processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", END)]),
        ]
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wanted", ["add", "none"])
def test_every_text_begins_with_one_bos_or_none_and_is_the_same_behind_it(form: str, wanted: Any):
    tokenizer = words(begins=False)
    inner: Any = tokenizer.backend_tokenizer
    if FORMS[form] is not None:
        inner.post_processor = FORMS[form]
    text = "the old house"
    body = [token for token in tokenizer(text)["input_ids"] if token != BOS]
    set_bos(tokenizer, wanted, "m", hf_llama(vocab_size=len(VOCABULARY)).config)
    assert tokenizer(text)["input_ids"] == [BOS] * (wanted == "add") + body
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    assert (0, 3) in offsets
    assert (4, 7) in offsets
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == body[:3]


def test_models_of_one_folder_share_a_tokenizer_only_where_texts_begin_alike(tmp_path: Path):
    folder = folder_of(tmp_path / "m", words(begins=False))
    plain, also, added = (
        tokenizer_of(describe_files("m", ModelSpec(str(folder), bos=wanted))) for wanted in (None, None, "add")
    )
    assert plain is also
    assert plain("the")["input_ids"] == added("the")["input_ids"][1:]


def test_a_bos_that_is_nowhere_cannot_be_added(tmp_path: Path):
    other = words(begins=False)
    other.bos_token = None
    folder = folder_of(tmp_path / "m", other)
    with pytest.raises(UnsupportedModel, match="bos: add, but neither tokenizer nor config"):
        nnsight_et.load(str(folder), bos="add")
    with pytest.raises(ManifestError, match="bos: found 'yes'"):
        nnsight_et.load(str(folder), bos="yes")  # type: ignore[arg-type]


def test_it_is_part_of_what_is_computed_only_where_it_is_set():
    text = "name: s\nmodels: {{m: {{path: org/m{}}}}}\nexperiments: {{k: {{method: knockout, model: m, examples: 2}}}}"
    plain, added, none = (plan(parse(text.format(more), "s")) for more in ("", ", bos: add", ", bos: none"))
    assert "bos" not in plain.jobs[0].models[0].identity
    assert added.jobs[0].models[0].identity["bos"] == "add"
    assert len({one.jobs[0].id for one in (plain, added, none)}) == 3


STUDY = """\
name: s
probe: off
task: {kind: boxes, boxes: 2}
models: {m: {path: model}}
experiments: {k: {method: knockout, model: m, examples: 2, edges: [{blind: last, to: query_label}]}}
"""


def test_inspect_doctor_run_and_report_say_it_and_what_is_done_about_it(
    needing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "model").symlink_to(needing)
    (tmp_path / "s.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    said = "m: prompts begin without <s>, and the model needs it"
    assert et("models", "inspect", "m", "--manifest", "s.yaml").stdout.startswith(f"Notice: {said}")
    assert "prompts begin without <s>" in et("doctor", "s.yaml").stdout
    run = et("run", "s.yaml")
    assert run.stderr.startswith(f"Notice: {said}")
    (folder,) = (tmp_path / "runs" / "s").iterdir()
    assert [notice.kind for notice in read_header(folder / "k").notices] == ["bos"]
    assert "m: prompts begin without &lt;s&gt;" in (folder / "report.html").read_text()
    mended = et("run", "s.yaml", "--set", "models.m.bos=add")
    assert "Notice" not in mended.stderr
    inspected = et("models", "inspect", "m", "--manifest", "s.yaml", "--set", "models.m.bos=add").stdout
    assert "Notice" not in inspected
    assert "texts begin with <s>" in inspected


def test_a_model_is_compared_with_its_adapter(content: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The base is as good without BOS, and with the adapter it is not."""
    wanted = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(content), wanted)
    teach(adapted, needs=True).save_pretrained(str(tmp_path / "lora"), save_embedding_layers=False)
    (tmp_path / "model").symlink_to(content)
    (tmp_path / "s.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    for more, told in ((), False), (("--set", "models.m.adapter=lora"), True):
        found = et("models", "inspect", "m", "--manifest", "s.yaml", *more).stdout
        assert ("Notice: m: prompts begin without <s>" in found) is told
        assert ("does as well without it" in found) is not told
    (tmp_path / "s.yaml").write_text(STUDY.replace("path: model", "path: model, adapter: lora"))
    assert "prompts begin without <s>" in et("doctor", "s.yaml").stdout


def test_inspecting_a_model_whose_texts_begin_as_they_should_reads_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from nnsight_et.models import bos_here

    folder = folder_of(tmp_path / "m", words(begins=True))
    monkeypatch.setattr(bos_here, "load_model", lambda *_: pytest.fail("weights were read"))
    assert "texts begin with <s>" in et("models", "inspect", folder).stdout
    other = folder_of(tmp_path / "other", words(begins=False))
    (other / "model.safetensors").unlink()
    assert "its weights are not here" in et("models", "inspect", other).stdout
