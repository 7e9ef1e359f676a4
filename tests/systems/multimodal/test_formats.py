"""Layouts of data sets, pictures in all their forms, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rwkd_lightning.systems.multimodal.formats import load_pairs
from rwkd_lightning.systems.multimodal.joined import joined
from rwkd_lightning.systems.multimodal.pictures import Files, opened
from rwkd_lightning.utils.errors import UserError
from tests.systems.multimodal.conftest import write_pairs

PIL = pytest.importorskip("PIL.Image")


def picture(file: Path, colour: Any = (10, 200, 30), mode: str = "RGB", **options: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    PIL.new(mode, (8, 6), colour).save(file, **options)


def lines(file: Path, rows: list[Any]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_hateful_memes(pairs: Path) -> None:
    """Prevents: texts, pictures and labels that are of different rows."""
    found = load_pairs(str(pairs))
    assert {name: len(rows) for name, rows in found.splits.items()} == {"train": 90, "validation": 30, "test": 30}
    assert list(found.classes) == ["blue", "green", "red"] and not found.several
    for split, file in (("train", "train"), ("validation", "dev"), ("test", "test")):
        rows = found.splits[split]
        for place, line in enumerate((pairs / f"{file}.jsonl").read_text().splitlines()):
            entry = json.loads(line)
            assert rows.texts[place] == entry.get("text", "")
            assert found.classes[int(rows.labels[place])] == entry["label"]
            number = rows.pictures[place]
            assert (number == -1) == ("img" not in entry)
            if number >= 0:
                with PIL.open(pairs / entry["img"]) as theirs:
                    assert found.pictures[number].tobytes() == theirs.convert("RGB").tobytes()


def test_a_competitions_test_split_without_labels_is_cut_from_train_instead(tmp_path: Path) -> None:
    """Prevents: scores of labels that nobody knows."""
    folder = write_pairs(tmp_path / "data")
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    lines(folder / "test.jsonl", [{k: v for k, v in row.items() if k != "label"} for row in rows])
    found = load_pairs(str(folder), test_fraction=0.2)
    train, test = found.splits["train"], found.splits["test"]
    assert len(train) + len(test) == 90 and 12 <= len(test) <= 18
    assert not set(test.texts) - {""} & set(train.texts) - {""}


def test_several_labels(tmp_path: Path) -> None:
    """Prevents: a row's second label that is lost."""
    found = load_pairs(str(write_pairs(tmp_path / "data", several=True)))
    assert found.several and list(found.classes) == ["blue", "bright", "green", "red"]
    assert found.splits["train"].labels[:2].tolist() == [[0, 0, 0, 1], [0, 1, 1, 0]]
    found.held_out(0.2, 0)


def test_mm_imdb(tmp_path: Path) -> None:
    """Prevents: films of a rare genre that are scored, and the shortest of several plots."""
    films = {"1": ["Drama", "War"], "2": ["Drama"], "3": ["News"], "4": ["War"], "5": ["Drama"]}
    for film, genres in films.items():
        picture(tmp_path / f"dataset/{film}.jpeg")
        (tmp_path / f"dataset/{film}.json").write_text(
            json.dumps({"plot": ["short", f"a long plot {film}"], "genres": genres})
        )
    split = {"train": ["1", "2", "3"], "dev": ["4"], "test": ["5"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    found = load_pairs(str(tmp_path))
    assert list(found.classes) == ["Drama", "War"] and list(found.splits["train"].texts) == [
        "a long plot 1",
        "a long plot 2",
    ]
    assert found.splits["train"].labels.tolist() == [[1, 1], [1, 0]]
    (tmp_path / "dataset/4.json").unlink()
    with pytest.raises(UserError, match=r"split.json, dev, number 1 \(4\): there is no"):
        load_pairs(str(tmp_path))


def test_snli_ve(tmp_path: Path) -> None:
    """Prevents: the caption, of which the sentence was made, as a text."""
    labels = ["entailment", "neutral", "-"]
    for name in ("train", "dev", "test"):
        rows = [
            {"Flickr30K_ID": f"{name}{i}", "sentence1": "caption", "sentence2": f"{name} {i}", "gold_label": label}
            for i, label in enumerate(labels)
        ]
        lines(tmp_path / f"snli_ve_{name}.jsonl", rows)
        for i in range(3):
            picture(tmp_path / f"flickr30k_images/{name}{i}.jpg")
    found = load_pairs(str(tmp_path))
    assert list(found.splits["train"].texts) == ["train 0", "train 1"]
    assert list(found.classes) == ["entailment", "neutral"]
    (tmp_path / "snli_ve_dev.jsonl").unlink()
    with pytest.raises(UserError, match=r"no snli_ve_dev.jsonl; give all three"):
        load_pairs(str(tmp_path))


def test_a_table_with_several_labels_in_a_cell(tmp_path: Path) -> None:
    """Prevents: a cell of two labels taken for a class of its own."""
    picture(tmp_path / "a.png")
    cells = [("x", "a.png", "one;two"), ("y", "", "two"), ("", "a.png", "one")]
    for name in ("train", "dev", "test"):
        rows = "".join(f"{text} {name} {i},{image},{label}\n" for i, (text, image, label) in enumerate(cells))
        (tmp_path / f"{name}.csv").write_text("words,file,tags\n" + rows)
    options: dict[str, Any] = {"text": "words", "image": "file", "label": "tags"}
    found = load_pairs(str(tmp_path), **options, separator=";")
    assert found.several and found.splits["train"].labels.tolist() == [[1, 1], [0, 1], [1, 0]]
    assert list(found.splits["train"].pictures) == [0, -1, 0]
    assert list(load_pairs(str(tmp_path), **options).classes) == ["one", "one;two", "two"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img": "../outside.png"}, r"train.jsonl, line 2: the picture '../outside.png' lies outside of"),
        ({"img": "img/none.png"}, r"train.jsonl, line 2: there is no picture .*none.png"),
        ({"img": "", "text": " "}, r"train.jsonl, line 2 has neither a text nor a picture"),
        ({"label": "purple"}, r"train.jsonl, line 2 has the label 'purple', which is not among data.classes"),
    ],
)
def test_a_wrong_row_is_named(change: dict[str, str], message: str, pairs: Path, tmp_path: Path) -> None:
    """Prevents: a run that stops in its third epoch, or reads a file that it should not."""
    folder = tmp_path / "data"
    shutil.copytree(pairs, folder)
    picture(tmp_path / "outside.png")
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    rows[1] |= change
    lines(folder / "train.jsonl", rows)
    with pytest.raises(UserError, match=message):
        load_pairs(str(folder), classes=["red", "green", "blue"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"holds nothing; give a directory with train.jsonl"),
        ({"v2_OpenEnded_mscoco_train2014_questions.json": "{}"}, r"holds VQA2, whose answers are shares"),
        ({"train.jsonl": "not json\n"}, r"train.jsonl, line 1 is no JSON"),
        (
            {"train.jsonl": '{"caption": "x"}\n'},
            r"line 1 has neither 'text' nor 'img', only caption; set data.text=KEY",
        ),
        ({"split.json": "[]"}, r"split.json has not the lists train, dev and test"),
    ],
)
def test_a_directory_of_another_layout(files: dict[str, str], message: str, tmp_path: Path) -> None:
    """Prevents: an error of Python's in place of what to give."""
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load_pairs(str(tmp_path))


def test_no_path_and_no_directory(tmp_path: Path) -> None:
    """Prevents: an error of Python's in place of what to give."""
    with pytest.raises(UserError, match=r"give data.path=DIR"):
        load_pairs(None)
    with pytest.raises(UserError, match=r"is not a directory"):
        load_pairs(str(tmp_path / "none"))


def test_pictures_are_upright_and_on_white(tmp_path: Path) -> None:
    """Prevents: phone pictures on their side, and transparent ones on black."""
    exif = PIL.Exif()
    exif[0x0112] = 6  # the camera was turned
    picture(tmp_path / "turned.jpg", exif=exif)
    assert opened(tmp_path / "turned.jpg", "row").size == (6, 8)
    picture(tmp_path / "clear.png", (0, 0, 0, 0), "RGBA")
    assert opened(tmp_path / "clear.png", "row").getpixel((3, 3)) == (255, 255, 255)
    picture(tmp_path / "palette.png", 0, "P", transparency=0)
    assert opened(tmp_path / "palette.png", "row").getpixel((3, 3)) == (255, 255, 255)
    picture(tmp_path / "deep.png", 40_000, "I;16")
    assert opened(tmp_path / "deep.png", "row").getpixel((3, 3)) == (156, 156, 156)
    picture(tmp_path / "grey.png", 77, "L")
    assert opened(tmp_path / "grey.png", "row").getpixel((3, 3)) == (77, 77, 77)


def test_pictures_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents: a traceback of Pillow's, or a machine without memory."""
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=r"row 7: the picture .*text.png cannot be read \(it is no picture\)"):
        opened(tmp_path / "text.png", "row 7")
    PIL.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    with pytest.raises(UserError, match=r"half.png cannot be read"):
        opened(tmp_path / "half.png", "row 7")
    monkeypatch.setattr("rwkd_lightning.systems.multimodal.pictures.PIXELS", 40)
    picture(tmp_path / "huge.png")
    with pytest.raises(UserError, match=r"huge.png has 8 x 6 pixels, and 40 can be read"):
        opened(tmp_path / "huge.png", "row 7")


def test_a_fingerprint_is_of_contents(tmp_path: Path) -> None:
    """Prevents: features of a picture that was replaced under its name."""
    picture(tmp_path / "a.png")
    before = Files(tmp_path, ["a.png"], ["row"]).fingerprint()
    picture(tmp_path / "a.png", (1, 2, 3))
    assert Files(tmp_path, ["a.png"], ["row"]).fingerprint() != before


def test_rows_are_joined_by_what_they_share() -> None:
    """Prevents: the same meme in training and held out, by way of a third row."""
    groups = joined(["a", "b", "a", None, None, "c"], [1, 2, 3, 3, 4, None])
    assert groups[0] == groups[2] == groups[3] and len({groups[i] for i in (0, 1, 4, 5)}) == 4


def test_same_padding_of_the_image_encoder() -> None:
    """Prevents: maps that are shifted by a pixel against those that the weights were trained with."""
    from rwkd_lightning.systems.multimodal.encoders.lite0 import Lite0, Same

    x = torch.randn(1, 2, 7, 8)
    for kernel, stride in ((3, 2), (5, 2), (5, 1), (1, 1)):
        own = Same(2, 3, kernel, stride, bias=False)
        rows, columns = -(-7 // stride), -(-8 // stride)
        above = max((rows - 1) * stride + kernel - 7, 0) // 2
        left = max((columns - 1) * stride + kernel - 8, 0) // 2
        wide = np.zeros((2, 7 + 3 * kernel, 8 + 3 * kernel), dtype=np.float32)
        wide[:, above : above + 7, left : left + 8] = x[0]
        weight = own.weight.detach().numpy()
        expected = np.array(
            [
                [
                    [
                        (wide[:, i * stride : i * stride + kernel, j * stride : j * stride + kernel] * w).sum()
                        for j in range(columns)
                    ]
                    for i in range(rows)
                ]
                for w in weight
            ]
        )
        torch.testing.assert_close(own(x)[0].detach(), torch.from_numpy(expected).float(), atol=1e-5, rtol=1e-4)
    network = Lite0().eval()
    assert sum(p.numel() for p in network.parameters()) == 4_652_008  # the published file's
    assert network.grid(torch.zeros(2, 3, 96, 96), 2).shape == (2, 4, 1280)


def test_the_image_encoder_is_the_published_network() -> None:
    """Prevents: features of another network than the one that was trained on ImageNet."""
    library = pytest.importorskip("efficientnet_lite_pytorch")
    from rwkd_lightning.systems.multimodal.encoders.lite0 import Lite0

    theirs = library.EfficientNet.from_name("efficientnet-lite0").eval()
    for norm in (m for m in theirs.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1)
        norm.running_var.uniform_(0.5, 2)
    mine = Lite0().eval()
    mine.load_state_dict(theirs.state_dict())
    pictures = torch.rand(2, 3, 96, 96) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(mine.classes(pictures), theirs(pictures))
