"""A fixed share of the hostile examples, and what the command ``python -m tests.hostile`` has found."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from rwkd_lightning.cache.store import Store, tensors
from rwkd_lightning.cli import run_folder as whole
from rwkd_lightning.cli import schema as values
from rwkd_lightning.cli.composition import known_to_hydra
from rwkd_lightning.systems.text.data import tweets as product_tweets
from rwkd_lightning.systems.text.data.task import TaskSpec
from rwkd_lightning.systems.text.models import check_inputs, load_classifier, load_tokenizer
from rwkd_lightning.utils.errors import UserError
from rwkd_lightning.utils.paths import place
from tests.forked import train
from tests.hostile import configs, files, glue, tweets
from tests.hostile.common import ACCEPTED, REFUSED
from tests.hostile.models import backbone

ROOT = Path(__file__).parents[2]
TASK = TaskSpec("toy", ("text",), ("neg", "mid", "pos"), ("accuracy",), "accuracy", ("validation",))


def some(kind: ModuleType, examples: int) -> Any:
    """A test of the same examples on every machine, without a deadline."""

    def test() -> None:
        counts = {ACCEPTED: 0, REFUSED: 0}

        @settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        @given(kind.strategy)
        def attempt(example: Any) -> None:
            counts[kind.check(example)] += 1

        attempt()
        assert all(counts.values()), counts

    return test


test_tweets = some(tweets, 100)
test_tweets.__doc__ = (
    "Prevents: a tweet under another label or text than the file's; a traceback for a broken CSV file."
)
test_glue = some(glue, 60)
test_glue.__doc__ = "Prevents: a GLUE row read as another; a traceback for columns of another type or half a file."
test_configs = some(configs, 40)
test_configs.__doc__ = (
    "Prevents: a learning rate of NaN or a text for a list taken in silence; a traceback for what is typed."
)
test_files = some(files, 25)
test_files.__doc__ = "Prevents: code that a file brings, weights that no file has, a traceback for half a file."


# The checks can fail


def test_another_reading_of_the_tweets_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: examples that are accepted whatever is loaded."""
    read = product_tweets._read
    monkeypatch.setattr(
        product_tweets, "_read", lambda *where: [row._replace(text=row.text[1:]) for row in read(*where)]
    )
    with pytest.raises(AssertionError, match="was loaded"):
        tweets.check([])


def test_a_value_of_another_type_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: command lines that are accepted whatever they say."""
    key = configs.keys().index("optimizer.weight_decay")
    example = [("set", key, configs.VALUES.index("-1"))]
    assert configs.check(example) == REFUSED
    monkeypatch.setattr(values, "check_value", lambda *_: None)
    monkeypatch.setattr(configs, "prepare", lambda _: None)
    with pytest.raises(AssertionError, match="optimizer.weight_decay=-1 was accepted"):
        configs.check(example)


def test_a_payload_that_runs_is_seen(tmp_path: Path) -> None:
    """Prevents: a payload that would do nothing even where it is read."""
    pickle.loads(files.payload(tmp_path)).close()
    assert (tmp_path / files.RAN).exists()


# Tables


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sentiment,confidence,text\nnegative,1.0,a,b\npositive,1.0,c,d\n", "has 4 fields in line 2, its header 3"),
        ("sentiment,confidence,text\nnegative,1.0\n", "has 2 fields in line 2, its header 3"),
        ("sentiment,text,text\nnegative,a,b\n", "it needs sentiment and text, each once"),
        ('sentiment,text\nnegative,"a\nb"\nneutral,"c"d\n', "is not a readable CSV file"),
        ('sentiment,text\nnegative,"a\n', "is not a readable CSV file"),
        ('sentiment,text\nnegative,"a\nb"\nbad,c\n', "has sentiment 'bad' in line 4"),
        ("", "has columns []"),
    ],
    ids=["longer", "shorter", "twice", "quote_inside", "open_quote", "line_number", "empty"],
)
def test_tables_that_would_be_misread(text: str, said: str, tmp_path: Path) -> None:
    """Prevents: columns shifted by one where every row has a field more, gaps filled, the second of two columns left
    out.
    """
    (tmp_path / "tweets.csv").write_text(text)
    with pytest.raises(UserError) as caught:
        product_tweets.load_tweets(str(tmp_path / "tweets.csv"))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "example",
    [
        ("cola", [("odd", 5, 7)]),
        ("mrpc", [("odd", 9, 7)]),
        ("cola", [("retype", 8, 12)]),
        ("cola", [("bad_utf8", 1, 0)]),
        ("mnli", [("extra", 0, 1)]),
        ("stsb", [("extra", 0, 2)]),
    ],
    ids=str,
)
def test_columns_that_arrow_would_convert(example: Any) -> None:
    """Prevents: an idx "0x1F" read as 31, a date as its microseconds, one of two columns of a name."""
    assert glue.check(example) == REFUSED


@pytest.mark.parametrize(
    "text", ["", "a\0b", "~no_such_user/x", "x" * 256, "ab/" * 2048, None, 3], ids=lambda value: repr(value)[:20]
)
def test_places_that_cannot_be(text: Any) -> None:
    """Prevents: the operating system's errors, each of its own type, in place of one line."""
    with pytest.raises(UserError, match=r"^data.path"):
        place(text, "data.path")


def test_every_message_is_one_line() -> None:
    """Prevents: a file's name that breaks the line, colours the terminal or fills it."""
    assert str(UserError("a\nb\x1b[31m\udc80")) == r"a\nb\x1b[31m\udc80"
    assert len(str(UserError("x" * 10**6))) < 2100


# Command lines


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["optimizer.lr=nan"], "optimizer.lr=nan is not finite; give a number above 0"),
        (["++trainer.max_epochs=inf"], "trainer.max_epochs=inf is not finite"),
        (["trainer.max_epochs=-1"], "trainer.max_epochs is -1; give a whole number from 1"),
        (["trainer.max_epochs=null"], "would train without end"),
        (["++data.batch_size=true"], "data.batch_size is true; give a whole number"),
        (["data.batch_size=16.0"], "data.batch_size=16.0 is written as a fraction; write data.batch_size=16"),
        (["optimizer.lr=${force}"], "optimizer.lr is false; give a number above 0"),
        (["runs_dir=null"], "runs_dir is null; give a path"),
        (["runs_dir='~/x'"], "runs_dir=~/x starts with ~"),
        (["data.path=[a]"], "data.path=[a] is not a single value; the default is"),
        (["pair.teacher.labels=x"], "pair.teacher.labels is 'x'; give a list of names"),
        (["cache_dir='a\0b'"], "holds a control character"),
        (["terms=[ce,ce]"], "terms is [ce,ce]; give a list of names, each once"),
        (["~seed"], "seed is missing"),
        (["seed=${nope}"], "seed cannot be resolved (Interpolation key 'nope' not found)"),
        (["++seed=../../x"], "seed is '../../x'; give a whole number"),
        (["task=../pair/minilm_6to3"], "task=../pair/minilm_6to3 leaves the folder of the group"),
        (["weighting=/etc/passwd"], "weighting=/etc/passwd leaves the folder of the group"),
        (["+new={1: a, b: c}"], "new.1 is no name for a key"),
        (["task=base/glue"], "task.load.task has no value yet"),
        (["weighting._target_=builtins.dict", "weighting=kd"], "makes a dict, and no Weighting"),
        (["+trainer.foo=1"], "lightning.Trainer refuses its options"),
        (["+trainer.gradient_clip_val=1"], "trainer.gradient_clip_val is set by the run itself; use trainer.clip"),
        (["pair.teacher.precision=x"], "pair.teacher.precision=x is not known here; use bf16-mixed or 32-true"),
        (["pair.student.path='package:os.path/x'"], "is no folder of a package"),
        (["trainer=glob(*)"], "put -m first"),
        (["-m", "seed=range(0,3),nan"], "the values of this sweep cannot be listed"),
        (["-1=1"], "the command line cannot be read (unrecognized arguments: -1=1)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_lines(typed: list[str], said: str) -> None:
    """Prevents: a value of another type taken for what it looks like, and tracebacks of Hydra, OmegaConf and
    Lightning.
    """
    with pytest.raises(UserError) as caught:
        configs.accepted(typed)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "typed", [["runs_dir=../x"], ["runs_dir=/tmp/y/../x"], ["hydra.run.dir=../x"], ["cache_dir=../../c"]], ids=str
)
def test_the_users_own_places_are_taken(typed: list[str]) -> None:
    """Prevents: a guard against names that stands in the way of a directory that the user wants."""
    configs.accepted(typed)


def test_a_name_cannot_lead_out_of_the_runs() -> None:
    """Prevents: a folder elsewhere by a name that no other check looks at."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(configs.CONF), version_base="1.3"):
        config = compose("config", return_hydra_config=True)
    config.hydra.runtime.choices.weighting = "../../../x"
    with known_to_hydra(config), pytest.raises(UserError, match="would lie outside runs_dir"):
        whole.check_folder(config, own=False)


def test_every_shipped_value_is_allowed_and_every_key_known() -> None:
    """Prevents: a key that is added to the configs and never checked, a row for one that is gone."""
    found = configs.shipped(()) | configs.shipped(
        ("task=mrpc", "meta=all", "meta_features=history", "weighting=permuted")
    )
    composed = [
        found,
        *(configs.shipped((f"task={name}",)) for name in ("topics", "tokens", "retrieval", "pairs", "summaries")),
    ]
    schemas = [values.schema_of(keys["task"]) for keys in composed]
    for schema, keys in zip(schemas, composed, strict=True):
        for key, value in keys.items():
            values.check_value(key, value, values.kind_of(key, schema))
        assert sorted({*values.NEEDED, *schema.needed} - set(keys)) == []
    found = {key: value for keys in reversed(composed) for key, value in keys.items()}
    for group in (
        "weighting",
        "meta_features",
        "meta/engine",
        "meta",
        "trainer",
        "optimizer",
        "scheduler",
        "logger",
        "data",
    ):
        for file in sorted((configs.CONF / group).glob("*.yaml")):
            written: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
            is_global = "@package _global_" in file.read_text()
            found |= values.leaves(written, "" if is_global else f"{group.replace('/', '.')}.")
    unknown = [
        key
        for key, value in found.items()
        if not isinstance(value, dict) and all(values.kind_of(key, schema) is values.ANY for schema in schemas)
    ]
    assert [key for key in unknown if not key.endswith((".parts", ".defaults", ".defaults.engine", "@inner"))] == []


@pytest.mark.parametrize(
    "typed", [["optimizer.lr=nan"], ["++seed=../../../x"], ["~optimizer.lr"], ["cache_dir='a\nb'"]], ids=repr
)
def test_train_py_says_one_line_and_makes_no_folder(typed: list[str], tmp_path: Path) -> None:
    """Prevents: checks that only the tests call."""
    before = sorted(os.listdir(ROOT))
    done = train(*typed, f"runs_dir={tmp_path / 'runs'}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert list(tmp_path.iterdir()) == [] and sorted(os.listdir(ROOT)) == before


# Models and the cache


def model(folder: Path, **settings: Any) -> Path:
    """The sound model, with other settings in its config.json."""
    for name, data in files.sound().items():
        (folder / name).write_bytes(data)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hidden_size": 32}, "its weights are of another model than its config.json (bert.embeddings"),
        ({"intermediate_size": 64}, "(bert.encoder.layer.0.intermediate.dense.bias is [32], and by the config [64])"),
        ({"vocab_size": 20}, "(bert.embeddings.word_embeddings.weight is [19, 16]"),
        ({"num_hidden_layers": 1}, "where the config has 1 blocks"),
        ({"vocab_size": 10**9}, "describes a model of 16,0"),
        ({"num_hidden_layers": 10**9}, "describes a model of 1000000000 blocks"),
        ({"hidden_dropout_prob": float("nan")}, "cannot be loaded"),
        ({"attn_implementation": "owner/kernel"}, "which is never run"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "are quantised"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_weights_of_another_config(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Prevents: random weights in place of those of another shape, blocks left out, memory for a model that is not
    there.
    """
    with pytest.raises(UserError) as caught:
        load_classifier(str(model(tmp_path, **settings)), TASK)
    assert said in str(caught.value)


def test_a_head_of_other_outputs_than_its_config_names(tmp_path: Path) -> None:
    """Prevents: a teacher used as it is whose head is new and random."""
    from transformers import BertConfig, BertForSequenceClassification

    names = {"id2label": dict(enumerate(("neg", "mid", "pos")))}
    BertForSequenceClassification(BertConfig.from_pretrained(backbone(), **names)).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state |= {"classifier.weight": torch.ones(5, 16), "classifier.bias": torch.ones(5)}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"names 3 outputs in its config.json, and its weights hold classifier.bias of \[5\]"
    ):
        load_classifier(str(tmp_path), TASK, trained=True)


def test_weights_are_not_rounded_to_what_the_config_says(tmp_path: Path) -> None:
    """Prevents: a config.json with dtype float16 that rounds weights in float32."""
    network = load_classifier(str(model(tmp_path, dtype="float16", torch_dtype="float16")), TASK).network
    stored = load_file(tmp_path / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(network.state_dict()[f"bert.{name}"], stored[name])
    assert not torch.equal(stored[name].half().float(), stored[name])


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    """Prevents: a teacher trained for hours before the student says NaN."""
    folder = model(tmp_path)
    state = load_file(folder / "model.safetensors")
    state["embeddings.LayerNorm.weight"].fill_(float("nan"))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="its weights are broken"):
        check_inputs(load_classifier(str(folder), TASK), load_tokenizer(str(folder)), 16, str(folder))


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", "pytorch_model.bin", 5])
def test_an_index_that_leads_elsewhere(name: Any, tmp_path: Path) -> None:
    """Prevents: weights from outside the folder, or from a pickle, that an index of shards names."""
    folder = tmp_path / "model"
    folder.mkdir()
    (model(folder) / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / "pytorch_model.bin").write_bytes(files.payload(tmp_path))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(UserError, match="it must name safetensors files beside it"):
        load_classifier(str(folder), TASK)
    assert not (tmp_path / files.RAN).exists()


@pytest.mark.parametrize(
    "content",
    ["pickle", {}, {"test": torch.zeros(4, 3)}, {"other": torch.zeros(5, 3)}],
    ids=["pickle", "none", "shape", "name"],
)
def test_a_cache_with_other_contents_and_digests_to_match(content: Any, tmp_path: Path) -> None:
    """Prevents: a pickle in place of cached logits being read, and logits of another split being trained on."""

    def build(part: Path) -> None:
        if content == "pickle":
            (part / "logits.safetensors").write_bytes(files.payload(tmp_path))
        else:
            save_file(content, part / "logits.safetensors")

    folder = Store(tmp_path / "cache").get("logits", {"of": "x"}, build)
    with pytest.raises(UserError, match="run again to rebuild it"):
        tensors(folder / "logits.safetensors", {"test": (5, 3)})
    assert not (tmp_path / files.RAN).exists()
