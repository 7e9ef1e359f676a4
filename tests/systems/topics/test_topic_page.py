"""The page of topics, parsed, and the distances that it shows."""

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon, pdist, squareform

from rwkd_lightning.systems.topics.distances import hellinger, matches, plane
from rwkd_lightning.systems.topics.page import TopicPage, page, write_page
from rwkd_lightning.utils.errors import UserError

RNG = np.random.default_rng(0)


def a_page(k=6, words=30, teacher=True):
    rng = np.random.default_rng(k)
    return TopicPage(
        title="M & <script>alert(1)</script>",
        vocabulary=[f"word{i}" for i in range(words)],
        beta_student=rng.dirichlet(np.full(words, 0.1), k),
        sizes=rng.dirichlet(np.ones(k)).tolist(),
        npmi=[float("nan"), *[0.125] * (k - 1)],
        examples=[[(f"document {i} of {i}", 0.9)] for i in range(k)],
        scores={"npmi": (0.1, 0.2), "parameters": (1692824, np.int64(703880)), "perplexity": (None, np.float32(5.5))},
        beta_teacher=rng.dirichlet(np.full(words, 0.1), k) if teacher else None,
    )


class Parsed(HTMLParser):
    """Checks that every element is closed where it should be, and keeps what was met."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def values(self, name):
        return [value for key, value in self.attributes if key == name]


@pytest.mark.parametrize("k", [1, 2, 6, 100])
@pytest.mark.parametrize("teacher", [True, False])
def test_page_is_whole_and_alone(k, teacher):
    """Prevents a page that needs the network, runs what a document says, or whose circles lead nowhere."""
    html = page(a_page(k, teacher=teacher))
    parsed = Parsed(html)
    assert not {"script", "link", "img", "iframe"}.intersection(parsed.tags) and "alert(1)" in html
    assert not re.search(r"https?:|url\(|@import|\bon\w+=", html)
    ids = parsed.values("id")
    assert sorted(ids) == sorted(f"topic-{i}" for i in range(k)) and parsed.tags.count("circle") == k
    assert {f"#{i}" for i in ids} == set(parsed.values("href"))
    assert ("teacher's topic" in html) is teacher
    assert html == page(a_page(k, teacher=teacher))


def test_words_of_the_corpus_are_text():
    """Prevents markup, quotes or control characters of a corpus from reaching the page as they are."""
    nasty = ['<b onclick="x">', "</title>", "'\"&amp;", "nul\0", "half\ud800", "שלום"]
    shown = a_page(3, len(nasty))
    html = page(replace(shown, vocabulary=nasty, examples=[[("</svg><img src=x>\0" + "long " * 99, 1.0)]] * 3))
    parsed = Parsed(html)
    assert "img" not in parsed.tags and "onclick" not in [name for name, _ in parsed.attributes]
    words = "".join(parsed.words)
    assert '<b onclick="x">' in words and "'\"&amp;" in words and "שלום" in words
    html.encode()
    document = next(line for line in words.splitlines() if "</svg><img" in line)
    assert document.endswith(" …") and len(document.removeprefix("100.0\u00a0% ")) <= 202


def test_numbers_of_a_card():
    """Prevents a figure beside the wrong topic: order by size, words by probability, NaN as a dash."""
    beta = np.array([[0.5, 0.3, 0.2, 0.0], [0.0, 0.1, 0.3, 0.6]])
    shown = TopicPage(
        "t",
        ["a", "b", "c", "d"],
        beta,
        [0.25, 0.75],
        [float("nan"), 0.5],
        [[("one", 0.9)], []],
        words=2,
        beta_teacher=beta[::-1],
        scores={"loss": (1.0, None), "words": (4, 1234567)},
    )
    words = " ".join(" ".join(Parsed(page(shown)).words).split())
    assert "words 4 1,234,567" in words and "loss 1.0000 –" in words
    cards = words[words.index("the largest first") :]
    assert cards.endswith(
        "Topic 1 size 75.0 %, NPMI 0.5000 d 60.0 % c 30.0 % teacher's topic 0, distance 0.00: d , c "
        "Topic 0 size 25.0 %, NPMI – a 50.0 % b 30.0 % teacher's topic 1, distance 0.00: a , b "
        "most typical documents 90.0 % one"
    )


def test_areas_of_circles_are_sizes():
    """Prevents radii as sizes, which make a topic of double size look four times as large, and two scales on one
    map.
    """
    shown = replace(a_page(5), sizes=[0.4, 0.3, 0.2, 0.05, 0.05])
    found = {}
    circle = r'#topic-(\d)"><title>[^<]*</title><circle cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"'
    for k, *numbers in re.findall(circle, page(shown)):
        found[int(k)] = tuple(map(float, numbers))
    areas = np.array([found[k][2] ** 2 for k in range(5)])
    assert areas / areas.sum() == pytest.approx(shown.sizes, abs=0.005)
    drawn = pdist(np.array([found[k][:2] for k in range(5)]))
    meant = pdist(plane(hellinger(shown.beta_student, shown.beta_student))[0])
    assert drawn / drawn.max() == pytest.approx(meant / meant.max(), abs=0.005)


def test_captions_cover_no_other():
    """Prevents a map of a hundred topics that cannot be read."""
    shown = a_page(100, 300)
    places = [
        (float(x), float(y), 6.2 * len(words))
        for x, y, words in re.findall(r'<text x="([\d.]+)" y="([\d.]+)">([^<]*)</text>', page(shown))
    ]
    assert len(places) > 20
    for (x, y, width), (u, v, other) in itertools.combinations(places, 2):
        assert abs(y - v) > 12.8 or x + width <= u + 0.2 or u + other <= x + 0.2


def test_hellinger_equals_its_definition():
    """Prevents another distance under this name: ‖√p - √q‖ / √2, 0 for equal and 1 for disjoint distributions."""
    p, q = RNG.dirichlet(np.full(9, 0.3), 4), RNG.dirichlet(np.full(9, 0.3), 3)
    expected = [[np.linalg.norm(np.sqrt(a) - np.sqrt(b)) / np.sqrt(2) for b in q] for a in p]
    assert hellinger(p, q) == pytest.approx(np.array(expected), abs=1e-12)
    assert hellinger(np.eye(2), np.eye(2)).tolist() == [[0, 1], [1, 0]]
    single = hellinger(p.astype(np.float32), p.astype(np.float32))
    assert single == pytest.approx(hellinger(p, p), abs=1e-3)


def test_plane_keeps_distances():
    """Prevents a distorted map: points of a plane come back up to rotation, and all that is kept is said."""
    points = RNG.normal(size=(12, 2))
    found, kept = plane(squareform(pdist(points)))
    assert pdist(found) == pytest.approx(pdist(points)) and kept == pytest.approx(1)
    solid = RNG.normal(size=(12, 5))
    spread = np.linalg.svd(solid - solid.mean(0), compute_uv=False) ** 2
    assert plane(squareform(pdist(solid)))[1] == pytest.approx(spread[:2].sum() / spread.sum())
    assert np.var(plane(squareform(pdist(solid)))[0], axis=0) == pytest.approx(spread[:2] / 12)
    for k in (1, 3):
        assert plane(np.zeros((k, k)))[0].tolist() == [[0, 0]] * k
    three = squareform([jensenshannon(a, b) for a, b in itertools.combinations(RNG.dirichlet(np.ones(4), 3), 2)])
    assert squareform(pdist(plane(three)[0])) == pytest.approx(three)


def test_matches_are_the_best_of_all_assignments():
    """Prevents two topics of the student with one of the teacher, and a greedy choice."""
    distances = RNG.random((5, 5))
    best = min(itertools.permutations(range(5)), key=lambda columns: sum(distances[range(5), columns]))
    assert matches(distances) == list(best)
    assert matches(np.array([[0.1], [0.9], [0.5]])) == [0, None, None]
    turned = replace(a_page(3), beta_teacher=a_page(3).beta_student[[1, 2, 0]])
    assert re.findall(r"teacher's topic (\d), distance ([\d.]+)", page(replace(turned, sizes=[3, 2, 1]))) == [
        ("2", "0.00"),
        ("0", "0.00"),
        ("1", "0.00"),
    ]
    assert "no topic of the teacher is left" in page(replace(a_page(3), beta_teacher=a_page(3).beta_teacher[:2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": [1.0]}, "page of 6 topics over 30 words: sizes has 1 entries instead of 6"),
        ({"vocabulary": ["a"]}, "vocabulary has 1 entries instead of 30"),
        ({"examples": []}, "examples has 0 entries instead of 6"),
        ({"beta_student": RNG.normal(size=(6, 30))}, r"beta_student \(6, 30\) is not a word distribution"),
        ({"beta_student": np.full((6, 30), np.nan)}, "beta_student .* is not a word distribution"),
        ({"beta_teacher": np.eye(6)}, r"beta_teacher \(6, 6\) is not a word distribution.*same vocabulary"),
    ],
)
def test_page_refuses_what_does_not_fit(change, message):
    """Prevents a page with logits as probabilities, or with the figures of other topics."""
    with pytest.raises(UserError, match=message):
        replace(a_page(), **change)


def test_page_is_written_whole(tmp_path):
    """Prevents half a page after a full disk, and a page in the machine's own encoding."""
    path = tmp_path / "topics.html"
    shown = replace(a_page(), title="Thémen – 主题")
    write_page(path, shown)
    assert path.read_bytes() == page(shown).encode() and [p.name for p in tmp_path.iterdir()] == ["topics.html"]
