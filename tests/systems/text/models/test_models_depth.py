"""Students cut from a deeper model: each kept block stays what it was, in memory and once written and loaded again."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForSequenceClassification

from rwkd_lightning.systems.text.models import load_classifier
from rwkd_lightning.systems.text.models.classifier import find_blocks
from rwkd_lightning.systems.text.models.depth import cut, cut_config, rebuilds
from rwkd_lightning.utils.errors import UserError
from tests.systems.text.models.conftest import TASK

pytestmark = pytest.mark.skipif(
    transformers.__version__.startswith("4."),
    reason="before 5 few configs list their layers one by one; other cuts are refused",
)
LOUD = {"initializer_range": 0.3, "init_std": 0.3}
FULL, LOCAL = "full_attention", "sliding_attention"
BY_LAYER = {"layer_types": [LOCAL, FULL, LOCAL, LOCAL, FULL, LOCAL]}
DEEP = {  # kinds whose blocks differ, by what their configs say of each; and some whose blocks are alike
    "bert": {},
    "deberta-v2": {},
    "mpnet": {},
    "xlnet": {},
    "gpt2": {},
    "opt": {},
    "llama": {},
    "phi3": {},
    "bloom": {},
    "big_bird": {"sep_token_id": 2},
    "longformer": {"attention_window": [4, 8, 16, 4, 8, 16]},
    "gpt_neo": {"attention_types": [[["global", "local"], 2], [["local"], 2]]},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 3},
    "qwen3": {"use_sliding_window": True, **BY_LAYER},
    "gemma2": {},
    "gemma3_text": {"sliding_window_pattern": 3},
    "olmo3": BY_LAYER,
    "exaone4": BY_LAYER,
    "smollm3": {"use_sliding_window": True, "no_rope_layers": [1, 0, 1, 1, 0, 0]},
    "qwen3_moe": {"decoder_sparse_step": 2, "mlp_only_layers": [3]},
    "markuplm": {},  # has a longer list of modules than that of its blocks
    "modernbert": {"global_attn_every_n_layers": 2},
    "modernbert-decoder": {"global_attn_every_n_layers": 3},
}
FIRST = ("modernbert", "modernbert-decoder")
"""Kinds whose first block has a norm less, so that it must stay the first."""


@pytest.fixture
def ids():
    return torch.randint(4, 20, (3, 30), generator=torch.Generator().manual_seed(1))


def without(network, layers):
    """Let the blocks that are not among these give out what they are given, on the whole model."""

    def through(module, args, named, output):
        given = args[0] if args else named["hidden_states"]
        return (given, *output[1:]) if isinstance(output, tuple) else given

    for i, block in enumerate(find_blocks(network)[1]):
        if i not in layers:
            block.register_forward_hook(through, with_kwargs=True)


@pytest.mark.parametrize("layers", [[0, 2], [1, 3, 4], [0, 1, 5]])
@pytest.mark.parametrize("kind", DEEP)
@torch.no_grad()
def test_a_cut_student_is_the_model_without_those_blocks(kind, layers, save, ids, tmp_path):
    """Prevents: a whole training that ends without a student, as its config counts other blocks than it has; a local
    block that becomes a global one on the way; a student that says other things once it is loaded again.
    """
    folder = save(kind, ["neg", "mid", "pos"], num_hidden_layers=6, **LOUD, **DEEP[kind])
    if kind in FIRST and 0 not in layers:
        with pytest.raises(UserError, match="not alike"):
            load_classifier(str(folder), TASK, layers)
        return
    whole = load_classifier(str(folder), TASK).network.eval()
    without(whole, layers)
    student = load_classifier(str(folder), TASK, layers).eval()
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = whole(**given).logits
    torch.testing.assert_close(student.network(**given).logits, expected)
    student.network.save_pretrained(tmp_path / "cut")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cut").eval()
    assert again.config.num_hidden_layers == len(layers) == len(find_blocks(again)[1])
    torch.testing.assert_close(again(**given).logits, expected)


@pytest.mark.parametrize(
    ("kind", "options", "layers", "expected"),
    [
        (
            "gpt_neo",
            {"attention_types": [[["global", "local"], 3]]},
            [1, 4],
            {"attention_types": [[["local", "global"], 1]], "attention_layers": ["local", "global"]},
        ),
        ("longformer", {"attention_window": [2, 4, 6, 8, 10, 12]}, [5, 0], {"attention_window": [12, 2]}),
        (
            "qwen3",
            {**BY_LAYER, "max_window_layers": 4},
            [1, 2, 5],
            {"layer_types": [FULL, LOCAL, LOCAL], "max_window_layers": 2},
        ),
        ("smollm3", {"no_rope_layers": [1, 0, 1, 1, 0, 0]}, [1, 2], {"no_rope_layers": [0, 1]}),
        (
            "qwen3_moe",
            {"decoder_sparse_step": 3, "mlp_only_layers": [2]},
            [0, 2, 5],
            {"decoder_sparse_step": 1, "mlp_only_layers": [0, 1]},
        ),
        (
            "qwen3_moe",
            {"mlp_only_layers": [0, 1, 2, 3, 4, 5]},
            [4, 5],
            {"mlp_only_layers": [0, 1]},
        ),  # as long as a list by block
        ("deepseek_v3", {"first_k_dense_replace": 3}, [0, 2, 4], {"first_k_dense_replace": 2}),
        (
            "llama",
            {"eos_token_id": [1, 2, 3, 4, 5, 6]},
            [0, 2],
            {"eos_token_id": [1, 2, 3, 4, 5, 6]},
        ),  # no list by block
    ],
)
def test_every_list_by_block_is_cut(kind, options, layers, expected):
    """Prevents: a list that keeps the first blocks' entries for others, or numbers of blocks that are no longer
    theirs.
    """
    config = AutoConfig.for_model(kind, num_hidden_layers=6, **options)
    cut_config(config, layers, 6)
    assert config.num_hidden_layers == len(layers)
    assert {name: getattr(config, name) for name in expected} == expected


def test_a_backbone_with_a_config_of_its_own_is_cut_too(save):
    """Prevents: blocks that are run with the attention of those that were in their places before."""
    network = load_classifier(str(save("gemma2", num_hidden_layers=4)), TASK).network
    network.model.config = copy.deepcopy(network.config)  # as some versions of transformers build it
    cut(network, [1, 3])
    assert network.config.layer_types == network.model.config.layer_types == [FULL, FULL]


def test_windows_longer_than_any_probe_are_compared(save):
    """Prevents: a local block written as a global one, which short texts do not show."""
    network = load_classifier(str(save("gemma2", num_hidden_layers=4, sliding_window=4096)), TASK, [0, 2]).network
    assert network.config.layer_types == [LOCAL, LOCAL] and rebuilds(network)
    network.config.layer_types = [LOCAL, FULL]
    assert not rebuilds(network)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("bart", "a bart has an encoder and a decoder"),
        ("t5", "a t5 has an encoder and a decoder"),
        ("albert", "share weights"),
    ],
)
def test_stacks_that_cannot_be_cut_say_why(kind, words, save):
    """Prevents: a message about something else, and a cut that is none."""
    with pytest.raises(UserError, match=words):
        load_classifier(str(save(kind)), TASK, [0])


def test_what_depends_on_the_depth_itself_is_refused(save):
    """Prevents: blocks of a GPT-2 that scales its attention by a block's number taken for others of the same
    weights.
    """
    folder = str(save("gpt2", num_hidden_layers=4, scale_attn_by_inverse_layer_idx=True))
    load_classifier(folder, TASK, [0, 1])
    with pytest.raises(UserError, match="depend on how many"):
        load_classifier(folder, TASK, [0, 2])
