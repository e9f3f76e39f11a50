"""Texts: CSV, TSV and JSON lines, one source or several; and the real intent sets where they are."""

import json
from pathlib import Path

import pytest
import torch

from app.checkpoints.load import load, scan
from app.codecs import Codec, RawInput
from app.codecs.text import TextCodec
from app.core.limits import Limits
from app.training import datasets
from app.training.data_section import PARTS, Data, Source
from app.training.datasets._splits import listed
from app.training.decoding import codec_of
from app.training.errors import BadData, BadRecipe

MODELS = Path(__file__).parents[2] / "models"
EVERY = {"train": "", "test": "all"}
ROWS = [("book a flight", "travel"), ("a hotel", "travel"), ("my, balance", "bank"), ("pay", "bank"), ("hi", "talk")]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """A tokenizer that knows a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = ["[PAD]", "[UNK]", "a", "flight", "book", "hotel", "my", "balance", "pay", "hi", ","]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return TextCodec(path, {"max_tokens": 8}, Limits())


def _write(
    folder: Path, name: str, rows: list[tuple[str, str]] = ROWS, keys: tuple[str, str] = ("text", "label")
) -> None:
    import csv

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        if name.endswith(".jsonl"):
            file.write("\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in rows) + "\n\n")
        else:
            csv.writer(file, delimiter="," if name.endswith(".csv") else "\t").writerows([keys, *rows])


@pytest.mark.parametrize("name", ["intents.csv", "intents.tsv", "intents.jsonl"])
def test_every_format_gives_the_token_ids_of_serving_padded_with_zeros(tmp_path: Path, words: Codec, name: str) -> None:
    _write(tmp_path / "texts", name)
    pool = datasets.load(Data("texts", **EVERY), tmp_path, "test", words)
    assert pool.names == ("bank", "talk", "travel")
    assert pool.inputs.tolist() == [[6, 10, 7], [8, 0, 0], [9, 0, 0], [4, 2, 3], [2, 5, 0]]
    assert pool.counts.tolist() == [2, 1, 2]
    served = words.decode(RawInput("text", "my, balance", "")).tensor
    assert torch.equal(pool.inputs[0], served)


def test_other_columns_and_whole_numbers_as_labels_are_read(tmp_path: Path, words: Codec) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "some.jsonl").write_text('{"q": "hi", "y": 3}\n{"q": "pay", "y": 12}\n')
    data = Data("texts", settings={"text": "q", "label": "y"}, **EVERY)
    assert datasets.load(data, tmp_path, "test", words).names == ("12", "3")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, words: Codec) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "excel.csv").write_text("text,label\nhi,talk\npay,bank\n", encoding="utf-8-sig")
    assert datasets.load(Data("texts", **EVERY), tmp_path, "test", words).names == ("bank", "talk")


def test_a_text_that_is_twice_under_a_label_counts_once(tmp_path: Path, words: Codec) -> None:
    _write(tmp_path / "texts", "all.csv", [*ROWS, ("hi", "talk"), ("hi", "bank")])
    assert datasets.load(Data("texts", **EVERY), tmp_path, "test", words).counts.tolist() == [3, 1, 2]


def test_the_file_named_all_is_taken_where_there_are_several(tmp_path: Path, words: Codec) -> None:
    _write(tmp_path / "texts", "train.csv", ROWS[:2])
    _write(tmp_path / "texts", "test.csv")
    with pytest.raises(BadData, match=r"'file' name one; found: 'test\.csv', 'train\.csv'"):
        datasets.load(Data("texts", **EVERY), tmp_path, "test", words)
    named = Data("texts", settings={"file": "train.csv"}, **EVERY)
    assert datasets.load(named, tmp_path, "test", words).names == ("travel",)
    _write(tmp_path / "texts", "all.csv")
    assert len(datasets.load(Data("texts", **EVERY), tmp_path, "test", words).names) == 3


def test_a_json_file_decides_the_splits(tmp_path: Path, words: Codec) -> None:
    _write(tmp_path / "texts", "all.csv")
    (tmp_path / "texts" / "mine.json").write_text('{"train": ["travel"], "val": ["bank"], "test": ["talk"]}')
    data = Data("texts", settings={"classes": "mine.json"})
    assert [datasets.load(data, tmp_path, part, words).names for part in PARTS] == [("travel",), ("bank",), ("talk",)]


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("a.jsonl", '{"text": "hi", "label": "x"}\n{"text": "hi"}\n', r"line 2: .*'label'; the keys are 'text'"),
        ("a.jsonl", '{"text": "hi", "label": "x"}\n{"text": \n', r"'a\.jsonl' cannot be read"),
        ("a.jsonl", "[1]\n", r"line 1: .*the keys are none"),
        ("a.jsonl", '{"text": "hi", "label": 1.5}\n', "line 1"),
        ("a.csv", "words,label\nhi,x\n", r"line 2: .*'text'; the keys are 'words', 'label'"),
        ("a.csv", "text,label\nhi\n", r"line 2: .*'label'"),
        ("a.csv", 'text,label\n"hi,x\n', "cannot be read"),
        ("a.csv", "text,label\n\0,x\n", "NUL"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_by_its_line(
    tmp_path: Path, words: Codec, name: str, content: str, wrong: str
) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / name).write_text(content)
    with pytest.raises(BadData, match=wrong):
        datasets.load(Data("texts", **EVERY), tmp_path, "test", words)


def test_other_bytes_than_utf8_and_other_files_are_refused(tmp_path: Path, words: Codec) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.csv").write_bytes("text,label\ncaf\u00e9,x\n".encode("latin-1"))
    with pytest.raises(BadData, match="not UTF-8"):
        datasets.load(Data("texts", **EVERY), tmp_path, "test", words)
    with pytest.raises(BadData, match="must end in"):
        datasets.load(Data("texts", settings={"file": "a.xlsx"}, **EVERY), tmp_path, "test", words)
    with pytest.raises(BadRecipe, match="reads vectors"):
        datasets.load(Data("texts", **EVERY), tmp_path, "test", codec_of("vector", {}))


def test_a_text_that_serving_refuses_is_refused_with_its_line(tmp_path: Path, words: Codec) -> None:
    _write(tmp_path / "texts", "a.jsonl", [("hi", "x"), ("a\0b", "x")])
    with pytest.raises(BadData, match=r"line 2: .*NUL"):
        datasets.load(Data("texts", **EVERY), tmp_path, "test", words)


def test_two_sets_are_trained_on_together_and_a_third_judges(tmp_path: Path, words: Codec) -> None:
    _write(tmp_path / "one", "all.csv")
    _write(tmp_path / "two", "all.jsonl", [("book a flight", "travel"), ("a", "letters")])
    _write(tmp_path / "three", "all.csv", ROWS[:4])
    training = {"train": "all"}
    data = Data(
        sources=(
            Source("texts", "one", splits=training),
            Source("texts", "two", splits=training),
            Source("texts", "three", splits={"validation": "all", "test": "all"}),
        )
    )
    both = datasets.load(data, tmp_path, "train", words)
    assert both.names == ("one/bank", "one/talk", "one/travel", "two/letters", "two/travel")
    assert both.inputs.shape == (7, 3)
    assert datasets.load(data, tmp_path, "test", words).names == ("three/bank", "three/travel")


@pytest.mark.data
@pytest.mark.parametrize(("name", "classes"), [("clinc150", 150), ("hwu64", 64)])
def test_the_class_splits_of_the_intent_sets_are_disjoint_and_complete(data_dir: Path, name: str, classes: int) -> None:
    known = {json.loads(line)["label"] for line in (data_dir / "text" / name / "all.jsonl").read_text().splitlines()}
    for number in range(1, 6):
        splits = listed(data_dir / "text" / name / f"classes_split_{number}.json", sorted(known))
        assert set(splits) == {"train", "val", "test"}
        assert sum(map(len, splits.values())) == len(known) == classes


@pytest.mark.data
def test_the_smallest_split_of_hwu64_is_tokenized_as_in_serving(data_dir: Path) -> None:
    checkpoint = load(scan([MODELS])["text-minilm"])
    codec = codec_of("text", checkpoint.card.preprocessing, checkpoint.tokenizer_path)
    pool = datasets.load(Data("texts", "text/hwu64", {"classes": "classes_split_1.json"}), data_dir, "train", codec)
    assert len(pool.names) == 16
    assert int(pool.counts.min()) < int(pool.counts.max())
    assert bool((pool.inputs[:, 0] == 101).all())  # each begins with [CLS]
    rows = (json.loads(line) for line in (data_dir / "text" / "hwu64" / "all.jsonl").read_text().splitlines())
    first = next(row["text"] for row in rows if row["label"] == pool.names[3])
    served = codec.decode(RawInput("text", first, "")).tensor
    assert torch.equal(pool.inputs[pool.starts[3], : len(served)], served)
