"""The robust preset: its views against plain formulas, its threshold against its null, what must not matter."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.studies.lomar_threshold import rate_above
from flwr_faa.detection import PyODDetector
from flwr_faa.detection.threshold import largest_z
from flwr_faa.detection.views import LONG, View
from flwr_faa.replies.updates import Batch, Layout
from flwr_lomar.detector import LoMarDetector
from flwr_lomar.neighbourhood import Seen, cloud_of
from flwr_lomar.robust.views import (
    Centre,
    Profile,
    Sight,
    _centre,
    length_of,
    look_again,
    nearest_among,
    pick_kinder,
    shared_with,
    sight_of,
)

SHAPES = ((12, 6), (12,), (5, 12), (5,))
LAYOUT = Layout(SHAPES, (np.dtype("f4"),) * 4)


def updates(n=40, seed=0, dtype=np.float64):
    """Of a model with a backbone and five labels; a common direction, lengths that differ."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=LAYOUT.size) + rng.normal(size=(n, LAYOUT.size)) * rng.lognormal(0, 0.2, (n, 1))
    return x.astype(dtype)


def geometric_median(x):
    g = x.mean(axis=0)
    for _ in range(12):
        away = np.linalg.norm(x - g, axis=1)
        g = (x / away[:, None]).sum(axis=0) / (1 / away).sum()
    return g


def plain(x):
    """The views of one block, from vectors; those of distances up to a constant."""
    n, g = len(x), geometric_median(x)
    near = np.array([sorted(np.linalg.norm(np.delete(away, i, 0), axis=1)) for i, away in enumerate(x[:, None] - x)])
    one, few, most = near[:, 0], near[:, :3].mean(axis=1), near[:, : round(0.6 * n)].mean(axis=1)
    unit = (x - g) / np.linalg.norm(x - g, axis=1)[:, None]
    shared = (((unit @ unit.T) ** 2).sum(axis=1) - 1) / (n - 1)
    norms, mean = np.linalg.norm(x, axis=1), x.mean(axis=0)
    cosine, long = x @ mean / norms / np.linalg.norm(mean), norms > LONG * np.median(norms)
    return [np.log(v) for v in (one, most, one / most, few / most, norms)] + [
        x @ g / (g @ g),
        np.log(shared),
        (x > 0).mean(axis=1),
        np.where(long, cosine, np.median(cosine)),
    ]


def z(values, least=0.0, calm=slice(None)):
    centre = np.median(values[calm])
    spread = 1.4826 * np.median(np.abs(values[calm] - centre))
    return (values - centre) / np.maximum(spread, least)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_views_are_what_they_say(dtype):
    x = updates(dtype=dtype)
    detector = LoMarDetector(label_blocks=LAYOUT.label_blocks).fit(x)
    classifier = np.sort(np.concatenate(LAYOUT.label_blocks))
    backbone = np.setdiff1d(np.arange(LAYOUT.size), classifier)
    a = x.astype(np.float64)
    ours = {view.name: view for view in detector.views_}
    assert len(ours) == len(detector.views_) == 1 + 1 + 3 * 9 + 2
    log_factor = detector.factor_.log_factor
    expected = {"log F": np.sign(log_factor) * np.sqrt(np.abs(log_factor))}
    for name, columns in (("update", slice(None)), ("classifier", classifier), ("backbone", backbone)):
        mine = [key for key in ours if key.startswith(name)]
        expected |= dict(zip(mine, plain(a[:, columns]), strict=True))
    near = [plain(a[:, c]) for c in LAYOUT.label_blocks]
    dense = np.array([z(p[3], 0.25) for p in near])
    few = np.array([z(p[3] + p[1], 0.25) for p in near])
    expected |= {"label, nearest": few.min(0), "label, densest": dense.min(0)}
    t = detector.threshold_
    for name, values in expected.items():
        if ours[name].spread is None:
            np.testing.assert_allclose(ours[name].z, z(values), rtol=1e-3, atol=1e-3, err_msg=name)
        else:
            np.testing.assert_allclose(ours[name].values, values, atol=1e-4, err_msg=name)

    half = np.sort(np.linalg.norm(a[:, None] - a, axis=2), axis=1)[:, 20]
    reach = np.log(np.maximum(half, np.median(np.linalg.norm(a, axis=1))))
    np.testing.assert_allclose(ours["reach"].values, reach - np.log(np.median(half)), atol=1e-3)

    known = [np.abs(v.values - np.median(v.values)) * t / v.matters[1] for v in detector.views_ if v.spread is not None]

    def look(calm):
        return np.max([np.abs(z(v.values, np.where(v.values < np.median(v.values[calm]), *v.matters) / t, calm))
                       for v in detector.views_ if v.spread is None] + known[1:], axis=0)  # fmt: skip

    first = look(slice(None))
    suspected = first > t
    np.testing.assert_allclose(detector.decision_scores_[~suspected], first[~suspected])
    for _ in range(5):  # more looks than it takes
        first = np.where(first > t, np.minimum(first, look(first <= t)), first)
    np.testing.assert_allclose(detector.decision_scores_, first)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 40), clones=st.integers(0, 3))
@settings(max_examples=25)
def test_the_order_of_the_updates_changes_nothing(seed, n, clones):
    x = updates(n, seed, np.float32)
    x[: min(clones, n)] = x[-1]
    order = np.random.default_rng(seed).permutation(n)
    one, other = (LoMarDetector(label_blocks=LAYOUT.label_blocks).fit(rows) for rows in (x, x[order]))
    np.testing.assert_array_equal(one.decision_scores_[order], other.decision_scores_)
    assert [one.evidence_[i] for i in order] == other.evidence_


@pytest.mark.parametrize("scale", [1e-6, 0.37, 1e5])
def test_units_do_not_matter(scale):
    x = updates(30, dtype=np.float32)
    x[:3] *= 4
    one, other = (LoMarDetector(label_blocks=LAYOUT.label_blocks).fit(rows) for rows in (x, x * np.float32(scale)))
    np.testing.assert_allclose(one.decision_scores_, other.decision_scores_, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(one.labels_, other.labels_)
    assert one.labels_[:3].all()


@pytest.mark.parametrize(("n", "views"), [(6, 11), (10, 27), (20, 11), (100, 27), (1000, 11)])
def test_the_threshold_holds_its_rate_under_its_null_hypothesis(n, views):
    rate = rate_above(n, views, np.random.default_rng(n), rate=0.02, draws=10_000)
    assert 0.012 < rate < 0.026


def test_the_threshold_falls_with_n_and_rises_with_views():
    assert largest_z(10, 12) > largest_z(100, 12) > largest_z(1000, 12) > 3.5
    assert largest_z(50, 28) > largest_z(50, 12) > largest_z(50, 12, rate=0.05)


def attack(name, x, rng):
    """What the first rows become."""
    classifier = np.sort(np.concatenate(LAYOUT.label_blocks))
    sigma = x.std(axis=0)
    bad = x[:8].copy()
    if name == "clones":
        bad[:] = x[0]
    elif name == "half as far":
        bad = x.mean(axis=0) + (bad - x.mean(axis=0)) / 8
    elif name == "backbone noise":
        noise = 4 * sigma * rng.normal(size=bad.shape)
        noise[:, classifier] = 0
        bad += noise
    elif name == "one label":
        bad[:, LAYOUT.label_blocks[2]] += 6
    elif name == "boosted":
        bad *= 10
    elif name == "sign flip":
        bad *= -1
    return bad


def test_honest_updates_that_a_large_group_makes_look_odd_are_cleared():
    """Forty clones of a hundred pull medians and MADs: by these alone most of the honest would go."""
    x = updates(100, 7, np.float32)
    x[:40] = x[0]
    detector = LoMarDetector(label_blocks=LAYOUT.label_blocks).fit(x)
    alone = np.max([np.abs(view.z) for view in detector.views_], axis=0) > detector.threshold_
    assert alone[40:].sum() > 6
    assert detector.labels_[:40].all()
    assert detector.labels_[40:].sum() <= 2
    assert not (detector.labels_.astype(bool) & ~alone).any()


@pytest.mark.parametrize("name", ["clones", "half as far", "backbone noise", "one label", "boosted", "sign flip"])
def test_attackers_are_rejected_and_the_report_says_why(name):
    rng = np.random.default_rng(3)
    x = updates(60, 5, np.float32)
    x[:8] = attack(name, x, rng)
    order = rng.permutation(60)
    batch = Batch(tuple(range(60)), x[order], np.ones(60), LAYOUT, {})
    found = PyODDetector(LoMarDetector()).detect(batch, seed=0)
    bad = set(np.flatnonzero(order < 8))
    assert bad <= set(found.suspects)
    assert len(found.suspects) <= len(bad) + 3
    words = {"clones": "closer than usual", "boosted": "er than", "backbone noise": "larger"}.get(name, "z = ")
    assert all(words in found.evidence[row] for row in bad)
    assert "than usual" in found.evidence[next(iter(bad))] or "usual" in found.evidence[next(iter(bad))]


#: Ten updates of length 1 that no view tells apart, in so many columns that few are no reason for anything.
N, WIDE = 10, 10**8
ALIKE = Profile(
    nearest=tuple(np.ones((3, N))), half=np.ones(N), shared=np.full(N, 0.1), to_mean=np.full(N, 0.2),
    squares=np.ones(N), positive=np.full(N, 0.5), centre=Centre(np.full(N, 1 / N), 0.5, np.ones(N), 1.0), width=WIDE,
)  # fmt: skip


def first(values, value):
    """The same, but for the first."""
    return np.r_[value, values[1:]]


def changed(**by):
    """The same updates, but for the first; distances to the 1, 3 and .6n nearest together."""
    fields = {name: first(getattr(ALIKE, name), value) for name, value in by.items() if name not in ("near", "away")}
    if "near" in by:
        fields["nearest"] = tuple(first(a, value) for a, value in zip(ALIKE.nearest, by["near"], strict=True))
    if "away" in by:
        fields["centre"] = replace(ALIKE.centre, away=first(ALIKE.centre.away, by["away"]))
    return replace(ALIKE, **fields)


def seen_of(profile, log_factor=None, labels=None):
    """All views of a model without a backbone, by name; perhaps with two labels."""
    sight = Sight()
    sight.add("update", profile)
    for label, nearest in enumerate(labels or ()):
        sight.add_label(label, nearest, 1.0, WIDE)
    return {view.name: view for view in sight.views(np.zeros(N) if log_factor is None else log_factor, np.arange(N))}


#: So much nearer that z is -4.9 and -5.1, where spreads count as .25.
JUST = math.exp(-4.9 / 4), math.exp(-5.1 / 4)


class TestWhatMatters:
    """Nine agree to the last bit, so any difference is odd. It counts from a size on that an honest update has not."""

    @pytest.mark.parametrize(
        ("name", "change", "least"),
        [
            ("nearest neighbour", lambda f: {"near": (f, 1, 1)}, 3),
            ("six tenths of all others", lambda f: {"near": (1, 1, f)}, 2.8),
            ("six tenths of all others", lambda f: {"near": (1, 1, 1 / f)}, 3),
            ("nearest neighbour, against six tenths of all", lambda f: {"near": (f, 1, 1)}, 3),
            ("nearest neighbour, against six tenths of all", lambda f: {"near": (1, 1, f)}, 5),
            ("3 nearest neighbours, against six tenths of all", lambda f: {"near": (1, f, 1)}, 3),
            ("3 nearest neighbours, against six tenths of all", lambda f: {"near": (1, 1 / f, 1)}, 3),
            ("norm", lambda f: {"squares": f**2}, 2),
            ("length along the crowd's direction, 1 is the crowd's", lambda f: {"away": 1 - 2 * (f - 1)}, 1 + 2.2),
            ("length along the crowd's direction, 1 is the crowd's", lambda f: {"away": 1 + 2 * (f - 1)}, 1 + 1.0),
            ("part of its difference from the crowd that others share", lambda f: {"shared": 0.1 * f}, 3),
            ("share of positive entries", lambda f: {"positive": 0.5 + f - 1}, 1 + 0.25),
            ("share of positive entries", lambda f: {"positive": 0.5 - f + 1}, 1 + 0.25),
            ("pulls the mean, cosine to it", lambda f: {"squares": 16.0, "to_mean": 0.2 + f - 1}, 1 + 0.7),
        ],
    )
    def test_of_a_block(self, name, change, least):
        views = [seen_of(changed(**change(least + off)))[f"update, {name}"] for off in (-1e-3, 1e-3)]
        inside, outside = (np.abs(look_again([view], 5.0, 5.0)[0]) for view in views)
        assert 4.9 < inside[0] <= 5 < outside[0] and not inside[1:].any() and not outside[1:].any()

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("norm", {"squares": 0.0}),
            ("part of its difference from the crowd that others share", {"shared": 0.0}),
            ("pulls the mean, cosine to it", {"squares": 16.0, "to_mean": -1.0}),
        ],
    )
    def test_a_short_update_does_no_harm_nor_one_that_shares_nothing_or_turns_no_mean(self, name, change):
        assert np.abs(seen_of(changed(**change))[f"update, {name}"].among(5.0)[0]) < 5

    @pytest.mark.parametrize(("root", "odd"), [(-1.499, False), (-1.501, True), (99.0, False)])
    def test_of_log_f_a_large_one_never(self, root, odd):
        log_factor = first(np.zeros(N), math.copysign(root**2, root))
        view = seen_of(ALIKE, log_factor)["log F"]
        assert view.values[0] == pytest.approx(root) and (np.abs(view.among(5.0)[0]) > 5) == odd

    @pytest.mark.parametrize(
        ("name", "near", "z"),
        [("label, nearest", (1, 1), 0), ("label, densest", (1, 1), 0)]
        + [("label, nearest", (f, f), math.log(f) / 0.25) for f in JUST]
        + [("label, densest", (f, 1), math.log(f) / 0.25) for f in JUST]
        + [("label, nearest", (f, 1), math.log(f) / 0.25) for f in JUST]
        + [("label, densest", (f, f), 0) for f in JUST],
    )
    def test_of_a_label(self, name, near, z):
        """Distances in the second label, to 3 and to .6n: its z counts from -5 on, and a sparse place nowhere."""
        plain = tuple(np.ones((3, N)))
        odd = np.ones(N), first(np.ones(N), near[0]), first(np.ones(N), near[1])
        view = seen_of(ALIKE, labels=(plain, odd))[name]
        assert view.values[0] == pytest.approx(z)
        assert (np.abs(view.among(5.0)[0]) > 5) == (z < -5)
        if z:
            assert view.what[0].startswith("label 1, its ") and not view.values[1:].any()
        sparse = np.ones(N), first(np.ones(N), 9.0), first(np.ones(N), 1.0)
        assert np.abs(seen_of(ALIKE, labels=(sparse, sparse))[name].among(5.0)).max() <= 5

    @pytest.mark.parametrize(("away", "odd"), [(0.049, False), (0.051, True)])
    def test_who_is_nearer_to_the_crowd_than_a_twentieth_of_its_length_shares_nothing_odd(self, away, odd):
        name = "update, part of its difference from the crowd that others share"
        found = seen_of(changed(away=away**2, shared=1.0))[name]
        assert (np.abs(found.among(5.0)[0]) > 5) == odd and found.values[0] == (0 if odd else found.values[1])


def test_the_geometric_median_on_a_line_is_the_update_in_the_middle():
    """Rounding must not make its squared distance negative."""
    for seed in range(30):
        x = np.random.default_rng(seed).normal(size=9)
        away = _centre((x[:, None] - x) ** 2, x**2).away
        assert (away >= 0).all() and away.argmin() == np.argsort(x)[4]


def test_the_nearest_of_many():
    squared = np.random.default_rng(0).random((5, 1000))
    near = np.sort(np.sqrt(squared), axis=1)
    for ours, k in zip(nearest_among(squared, 1000), (1, 3, 600), strict=True):
        np.testing.assert_allclose(ours, near[:, :k].mean(axis=1))


class TestSight:
    @pytest.mark.parametrize("unit", [1e-9, 1e-3, 1e9])
    def test_values_are_in_units_of_the_usual_update(self, unit):
        rng = np.random.default_rng(0)
        near, squares, away = np.sort(rng.uniform(1, 2, (3, N)), axis=0), rng.uniform(1, 9, N), rng.uniform(1, 2, N)
        labels = [tuple(near), tuple(np.zeros((3, N)))]
        plain = replace(
            ALIKE, nearest=tuple(near), half=near[2], squares=squares, centre=replace(ALIKE.centre, away=away)
        )
        other = replace(
            plain, nearest=tuple(unit * near), half=unit * near[2], squares=unit**2 * squares,
            centre=replace(ALIKE.centre, away=unit**2 * away, square=unit**2),
        )  # fmt: skip
        for one, two in zip(seen_of(plain).values(), seen_of(other).values(), strict=True):
            np.testing.assert_allclose(one.values, two.values, rtol=1e-9, atol=1e-9)
        values = {name: view.values for name, view in seen_of(plain, labels=labels).items()}
        assert np.median(values["update, six tenths of all others"]) == pytest.approx(0, abs=1e-2)
        assert np.median(values["update, norm"]) == pytest.approx(0, abs=1e-2)
        nothing = replace(ALIKE, nearest=tuple(np.zeros((3, N))), half=np.zeros(N), squares=np.zeros(N))
        nowhere = replace(nothing, centre=replace(ALIKE.centre, away=np.zeros(N), square=0.0))
        assert all(np.isfinite(view.values).all() and not np.ptp(view.values) for view in seen_of(nowhere).values())

    @pytest.mark.parametrize(
        ("name", "change", "line"),
        [
            ("nearest neighbour", {"near": (4, 1, 1)}, "nearest neighbour 4.0x farther than usual"),
            ("six tenths of all others", {"near": (1, 1, 0.25)}, "six tenths of all others 4.0x closer than usual"),
            ("norm", {"squares": 144.0}, "norm 12x larger than usual"),
            ("length along the crowd's direction, 1 is the crowd's", {"away": 4.0},
             "length along the crowd's direction, 1 is the crowd's -1, lower than the usual 0.5"),
            ("part of its difference from the crowd that others share", {"shared": 0.02},
             "part of its difference from the crowd that others share 5.0x smaller than usual"),
            ("share of positive entries", {"positive": 0.75},
             "share of positive entries 0.75, higher than the usual 0.5"),
            ("pulls the mean, cosine to it", {"squares": 16.0, "to_mean": 0.95},
             "pulls the mean, cosine to it 0.95, higher than the usual 0.2"),
        ],
    )  # fmt: skip
    def test_a_view_says_in_words_what_is_odd(self, name, change, line):
        assert seen_of(changed(**change))[f"update, {name}"].explain(0, 7.0) == f"update: {line} (z = 7.0)"

    def test_log_f_says_in_words_what_is_odd(self):
        view = seen_of(ALIKE, first(np.zeros(N), -4.0))["log F"]
        assert view.explain(0, -7.0) == "root of log F, LoMar's factor -2, lower than the usual 0 (z = -7.0)"

    def test_fewer_than_six_updates_are_seen_by_reach_alone(self):
        rows = np.random.default_rng(0).normal(size=(6, 20))
        assert [view.name for view in sight_of(Seen.of_all(cloud_of(rows[:5]))).views(np.zeros(5), np.arange(5))] == [
            "reach"
        ]
        assert len(sight_of(Seen.of_all(cloud_of(rows))).views(np.zeros(6), np.arange(6))) == 11

    def test_views_are_named_from_the_update_to_its_parts(self):
        found = sight_of(Seen.of_all(cloud_of(updates(8), LAYOUT.label_blocks))).views(np.zeros(8), np.arange(8))
        assert [view.name.split(",")[0] for view in found] == (
            ["reach", "log F"] + ["update"] * 9 + ["classifier"] * 9 + ["backbone"] * 9 + ["label"] * 2
        )
        assert found[2].explain(0).startswith("update: nearest neighbour ")

    @pytest.mark.parametrize("n", [2, 3, 4, 5, 11, 40])
    @pytest.mark.parametrize("copies", [1, 2])
    def test_measured_distances_are_those_of_vectors(self, n, copies):
        """To the 1, 3 and .6n nearest others, or to as many as there are, and to half of them; copies are at 0."""
        x = 0.01 * (np.random.default_rng(n).normal(size=(n, 6)) + 1)
        x[:copies] = x[0]
        away = np.linalg.norm(x[:, None] - x, axis=2)
        near = np.array([np.sort(np.delete(row, i)) for i, row in enumerate(away)])
        most = min(max(round(0.6 * n), 1), n - 1)
        squared = away**2 + np.diag(np.full(n, np.inf))
        found = nearest_among(squared, n)
        for ours, k in zip(found, (1, min(3, most), most), strict=True):
            np.testing.assert_allclose(ours, near[:, :k].mean(axis=1), atol=1e-9)
        seen = Seen.of_all(cloud_of(x))
        reach, *views = sight_of(seen).views(np.zeros(n), np.array(seen.place))
        half, length = near[:, n // 2 - 1], np.sqrt(np.median((x**2).sum(axis=1)))
        usual = np.median(half[half > 1e-9]) if (half > 1e-9).any() else 1.0
        np.testing.assert_allclose(reach.values, np.log(np.maximum(half, length) / usual))
        found = {view.name.removeprefix("update, "): view.values for view in views}
        if n >= 6:
            far, few = near[:, :most].mean(axis=1), near[:, :3].mean(axis=1)
            far, few = np.maximum(far, 0.05 * length), np.maximum(few, 0.05 * length)
            np.testing.assert_allclose(found["six tenths of all others"], np.log(far / np.median(far)), atol=1e-7)
            name = "3 nearest neighbours, against six tenths of all"
            np.testing.assert_allclose(found[name], np.log(few / far), atol=1e-7)
            assert copies == 1 or np.allclose(found["nearest neighbour"][:2], np.log(1e-6))

    @pytest.mark.parametrize("n", [2, 7, 20])
    def test_what_others_share_is_a_mean_of_squared_cosines(self, n):
        x, g = np.random.default_rng(n).normal(size=(n, 5)), np.ones(5)
        x[2:3] = g
        away = ((x - g) ** 2).sum(axis=1)
        unit = (x - g) / np.sqrt(np.where(away > 0, away, 1))[:, None]
        cosines = (unit @ unit.T) ** 2
        expected = (cosines.sum(axis=1) - np.where(away > 0, 1, 0)) / (n - 1)
        squared, everybody = ((x[:, None] - x) ** 2).sum(axis=2), np.arange(n)
        np.testing.assert_allclose(shared_with(squared, away, away, (everybody, everybody)), expected, atol=1e-12)
        # A few of them, compared with others than themselves: the first with the last.
        part = shared_with(squared[:1, -3:], away[:1], away[-3:], (np.empty(0, int), np.empty(0, int)))
        np.testing.assert_allclose(part, cosines[:1, -3:].mean(axis=1))
        # In a tile, who is compared with itself stands elsewhere in its row.
        tile = shared_with(squared[1:4], away[1:4], away, (np.arange(n - 1)[:3], np.arange(1, n)[:3]))
        np.testing.assert_allclose(tile, expected[1:4], atol=1e-12)
        alone = shared_with(np.zeros((1, 1)), np.ones(1), np.ones(1), (np.zeros(1, int), np.zeros(1, int)))
        assert alone.tolist() == [0.0]

    def test_a_length_is_that_of_the_usual_update(self):
        assert length_of(np.array([1.0, 9.0, 4.0])) == 2


class TestLooks:
    @pytest.mark.parametrize(
        ("first", "second", "kinder"),
        [
            ([3.0, -6.0], [1.0, 2.0], [1.0, 2.0]),  # above the limit, and less odd the second time
            ([3.0, -6.0], [1.0, 7.0], [3.0, -6.0]),  # odder
            ([3.0, -6.0], [6.0, 1.0], [3.0, -6.0]),  # as odd
            ([3.0, -5.0], [1.0, 2.0], [3.0, -5.0]),  # not above the limit
        ],
    )
    def test_the_kinder_look_counts_of_who_is_above_the_limit(self, first, second, kinder):
        with np.errstate(all="raise"):
            z = pick_kinder(np.array(first)[:, None], np.array(second)[:, None], 5.0)
        assert z[:, 0].tolist() == kinder

    @staticmethod
    def looked(limit, *measured):
        """The z of views in which every difference matters."""
        views = [View("", np.array(values, float), "", "less", "more", matters=(1e-9, 1e-9)) for values in measured]
        return look_again(views, limit, limit)

    def test_nobody_is_above_the_limit_who_is_at_it(self):
        values = np.array([1.0, 2, 3, 4, 5, 9])
        once = (values - 3.5) / (1.4826 * 1.5)
        for limit in (100.0, once.max()):
            np.testing.assert_allclose(self.looked(limit, values)[0], once)

    def test_a_look_by_the_others_alone_does_not_accuse(self):
        """By 0 to 4 alone, whose median is 2 and whose MAD is 1, the two at 20 would be odder still, and 4 too."""
        values = np.array([0, 1, 2, 3, 4, 20, 20.0])
        np.testing.assert_allclose(self.looked(1.5, values)[0], (values - 3) / (1.4826 * 2))

    def test_beside_many_who_are_alike_the_calmer_half_is_the_measure(self):
        """Four, whom the second view tells, pull the first view's median to 9 and its MAD to 1: 0 seems odd."""
        values = np.array([0, 4, 6, 8, 9, 10, 10, 10, 10.0])
        z, _ = self.looked(5.0, values, [0, 1, 2, 3, 4, 100, 100, 100, 100])
        np.testing.assert_allclose(z[1:], (values[1:] - 9) / 1.4826)
        np.testing.assert_allclose(z[0], (0 - 6) / (1.4826 * 2))  # by the five

    def test_a_bare_half_that_is_calm_is_too_few(self):
        """Of six, 6 and 8 and 9 are calm at first. The calmest of the others is measured with them."""
        values = np.array([-20, 6, 8, 9, 10, 10.0])
        z, _ = self.looked(5.0, values, [0, 1, 2, 3, 100, 100])
        np.testing.assert_allclose(z[0], (-20 - 7) / (1.4826 * 1.5))
