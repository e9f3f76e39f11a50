"""A text checkpoint as the folder that transformers and sentence-transformers load: a peer then runs from our weights.

The names are those of a published BERT encoder, the other way round than `app.backbones.minilm` takes them. The pooler,
which no embedding needs and our checkpoints lack, is all zeros, as is the second segment: whoever read them would see.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from app.backbones.minilm import NORM_EPS, Settings
from app.checkpoints.load import Checkpoint

WEIGHTS_FILE: Final = "model.safetensors"
SEGMENTS: Final = 2
_THREE: Final = ("query", "key", "value")
_RENAMED: Final = (
    (r"^words\.", "embeddings.word_embeddings."),
    (r"^positions\.", "embeddings.position_embeddings."),
    (r"^norm\.", "embeddings.LayerNorm."),
    (r"^layers\.", "encoder.layer."),
    (r"\.attention_in\.", ".attention.self."),
    (r"\.attention_out\.", ".attention.output.dense."),
    (r"\.attention_norm\.", ".attention.output.LayerNorm."),
    (r"\.wide\.", ".intermediate.dense."),
    (r"\.narrow\.", ".output.dense."),
    (r"(?<=\d)\.norm\.", ".output.LayerNorm."),
)


def to_bert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of our MiniLM under the names of a published encoder."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        theirs = _renamed(name)
        if name == "segment":
            segments = tensor.new_zeros(SEGMENTS, len(tensor))
            segments[0] = tensor
            found["embeddings.token_type_embeddings.weight"] = segments
        elif ".attention_in." in name:
            start, end = theirs.split(".self.")
            parts = zip(_THREE, tensor.chunk(len(_THREE)), strict=True)
            found |= {f"{start}.self.{part}.{end}": one.contiguous() for part, one in parts}
        else:
            found[theirs] = tensor
    dim = weights["segment"].shape[0]
    return found | {"pooler.dense.weight": torch.zeros(dim, dim), "pooler.dense.bias": torch.zeros(dim)}


def write_folder(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write the checkpoint's network and tokenizer into the folder; gives the folder.

    Raises: `ValueError` for a checkpoint that is no MiniLM with a tokenizer.
    """
    card = checkpoint.card
    if card.architecture != "minilm" or checkpoint.tokenizer_path is None:
        raise ValueError(f"{card.name!r} is no MiniLM with a tokenizer.")
    tokens = int(str(card.preprocessing["max_tokens"]))
    settings = Settings(**card.architecture_settings)  # type: ignore[arg-type]
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    for name, content in _files(settings, tokens).items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(checkpoint.tokenizer_path, folder / "tokenizer.json")
    # The metadata is what transformers asks a file of safetensors for.
    save_file(to_bert(checkpoint.backbone.state_dict()), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    return folder


def _renamed(name: str) -> str:
    for ours, theirs in _RENAMED:
        name = re.sub(ours, theirs, name)
    return name


def _files(settings: Settings, tokens: int) -> dict[str, object]:
    """The folder's files of JSON: the encoder's shape, the tokenizer's kind, and mean and length as modules."""
    modules = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    return {
        "config.json": {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_size": settings.dim,
            "num_hidden_layers": settings.layers,
            "num_attention_heads": settings.heads,
            "intermediate_size": settings.hidden,
            "vocab_size": settings.vocabulary,
            "max_position_embeddings": settings.positions,
            "type_vocab_size": SEGMENTS,
            "layer_norm_eps": NORM_EPS,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "pad_token_id": 0,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            "model_max_length": settings.positions,
            "unk_token": "[UNK]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "mask_token": "[MASK]",
        },
        "sentence_bert_config.json": {"max_seq_length": tokens, "do_lower_case": False},
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (path, kind) in enumerate(modules.items())
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": settings.dim, "pooling_mode_mean_tokens": True},
    }
