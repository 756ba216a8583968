import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_faa.detection import OCSVM, Detection, Everyone, MultiView, Sequential
from flwr_faa.detection.sequential import look_alike
from tests.detection.simulate import ATTACKS, attacked_round, batch_of, crowd


class Nothing:
    """Suspects the rows it was told to."""

    def __init__(self, *rows):
        self.rows = rows

    def detect(self, batch, seed):
        return Detection(np.zeros(len(batch)), 1.0, self.rows, ("",) * len(batch))

    def more(self, batch, detection, judged):
        raise AssertionError("Sequential asks itself")


def verify(detector, batch, bad, seed=0):
    """What the pipeline does, with a verifier that is always right; rows in the order named, by request."""
    found = detector.detect(batch, seed)
    judged, requests = {}, []
    pending = (*found.suspects, *found.audits)
    while pending:
        assert not set(pending) & judged.keys() and len(set(pending)) == len(pending)
        requests.append(pending)
        judged |= {row: row in bad for row in pending}
        pending = detector.more(batch, found, judged)
    return judged, requests


@pytest.mark.parametrize("how", ["iid", "shards"])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attacker_is_found_in_the_first_round(attack, share, how):
    for seed in range(2):
        batch, bad = attacked_round(attack, share, how, seed)
        judged, _ = verify(Sequential(), batch, bad, seed)
        assert {row for row, guilty in judged.items() if guilty} == bad
        assert len(judged) <= 18


@pytest.mark.parametrize(("how", "most"), [("iid", 6), ("shards", 11)])
def test_a_quiet_round_is_cheap_and_takes_one_request(how, most):
    for seed in range(4):
        batch, _ = attacked_round("gauss .1", 0.0, how, seed)
        judged, requests = verify(Sequential(), batch, set(), seed)
        assert 2 <= len(judged) <= most and len(requests) == 1


def cluster(n=30, bad=12, apart=3.0):
    """``bad`` accomplices who resemble each other, and a crowd."""
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(n, 50)).astype(np.float32)
    updates[:bad] = 0.3 * updates[:bad] + apart * rng.normal(size=50).astype(np.float32) / 7
    return batch_of(updates)


def test_one_conviction_leads_to_all_accomplices_in_growing_requests():
    batch = cluster()
    judged, requests = verify(Sequential(first=Nothing(0, 20), audits=0), batch, set(range(12)))
    assert {row for row, guilty in judged.items() if guilty} == set(range(12))
    assert [len(r) for r in requests] == [2, 2, 2, 4, 8]  # look-alikes so far: 0, 2, 4, 8
    assert len(judged) <= 2 + 11 + 8


def test_nobody_convicted_ends_it():
    detector = Sequential(first=Nothing(3, 4), audits=3)
    judged, requests = verify(detector, cluster(), set())
    assert len(requests) == 1 and len(judged) == 5


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_it_stops_after_enough_clean_look_alikes(patience):
    detector = Sequential(first=Nothing(0), audits=0, patience=patience)
    judged, requests = verify(detector, cluster(), {0})
    assert [len(r) for r in requests] == [1, patience]
    batch = cluster(bad=5)
    judged, _ = verify(detector, batch, set(range(5)))
    assert list(judged.values())[-patience:] == [False] * patience
    assert set(range(5)) <= judged.keys()


def test_clean_verdicts_among_the_first_suspects_do_not_count():
    detector, batch = Sequential(first=Nothing(0, 20, 21, 22, 23), audits=0), cluster()
    found = detector.detect(batch, 0)
    assert detector.more(batch, found, {0: True, 20: False, 21: False, 22: False, 23: False})
    assert not detector.more(batch, found, {0: True, 20: False, 24: False, 25: False})
    assert detector.more(batch, found, {0: True, 20: False, 24: False, 1: True, 25: False})


def test_it_may_run_out_of_clients_and_never_repeats_an_unanswered_one():
    batch = cluster(n=6, bad=6)
    judged, _ = verify(Sequential(first=Nothing(0), audits=0), batch, set(range(6)))
    assert len(judged) == 6
    detector = Sequential(first=Nothing(0, 1, 2), audits=1)
    found = detector.detect(batch, 0)
    named = detector.more(batch, found, {0: True})
    assert named and not {0, 1, 2, *found.audits} & set(named)


def test_look_alike_by_hand():
    batch = batch_of(np.array([[0.0], [1.0], [2.0], [8.0], [10.0]]))
    likeness = look_alike(batch, convicted=[0], cleared=[4])
    np.testing.assert_allclose(likeness[[1, 2, 3]], np.log([9 / 1, 8 / 2, 2 / 8]))
    assert look_alike(batch, [0], [])[1] > look_alike(batch, [0], [])[3]
    clones = batch_of(np.array([[0.0], [0.0], [0.0], [1.0]]))
    assert np.isfinite(look_alike(clones, [0], [1])).all()
    assert np.isfinite(look_alike(batch_of(np.zeros((3, 2))), [0], [1])).all()


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_audits_hang_on_the_seed_and_the_contents_alone(seed, shuffle):
    updates = crowd(20)
    ids = np.random.default_rng(shuffle).permutation(10**6)[:20]
    detector = Sequential(first=Nothing(), audits=4)
    one, other = batch_of(updates), batch_of(updates, ids=ids)
    audits, again = detector.detect(one, seed).audits, detector.detect(other, seed).audits
    assert [one.digests[r] for r in audits] == [other.digests[r] for r in again]
    assert len(set(audits)) == 5  # nobody is suspected, so the oddest comes first


def test_where_nobody_is_suspected_the_oddest_is_audited_first():
    batch = batch_of(crowd(10))
    scores = [1.0, 2.0, 4.9, 1.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    audits = Sequential(Given(scores), audits=2).detect(batch, 0).audits
    assert audits[0] == 2 and len(set(audits)) == 3
    assert Sequential(Given(scores), audits=0).detect(batch, 0).audits == ()
    assert 2 not in Sequential(Given([9.0, *scores[1:]]), audits=1).detect(batch, 3).audits


def test_audits_reach_everybody_and_are_not_suspects():
    batch = batch_of(crowd(20))
    detector = Sequential(first=Nothing(7), audits=2)
    drawn = [detector.detect(batch, seed) for seed in range(200)]
    counts = np.bincount([row for found in drawn for row in found.audits], minlength=20)
    assert all(found.suspects == (7,) for found in drawn)
    assert counts[7] == 0 and np.delete(counts, 7).min() > 5
    assert Sequential(first=Everyone()).detect(batch, 0).audits == ()


@pytest.mark.parametrize("first", [MultiView(), OCSVM()])
def test_the_whole_search_ignores_ids_and_order(first):
    batch, bad = attacked_round("alie 1.5 jittered", 0.4, "shards", 3)
    guilty = {batch.digests[r] for r in bad}
    expected = None
    for shuffle in range(5):
        ids = np.random.default_rng(shuffle).permutation(1000)[:20]
        other = batch_of(batch.updates, batch.layout.shapes, ids)
        rows = {r for r in range(20) if other.digests[r] in guilty}
        _, requests = verify(Sequential(first=first), other, rows, seed=9)
        named = [[other.digests[r] for r in request] for request in requests]
        expected = expected or named
        assert named == expected


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_clients(n):
    judged, _ = verify(Sequential(), batch_of(crowd(n)), {0})
    assert 0 in judged


def test_settings_are_checked_and_shown():
    for wrong in ({"audits": -1}, {"patience": 0}):
        with pytest.raises(ValueError, match="to be an integer of at least"):
            Sequential(**wrong)
    assert repr(Sequential()) == "Sequential(first=MultiView(threshold=5), audits=2, patience=2)"


class Given:
    """A first detector with scores that a test chose."""

    def __init__(self, scores, threshold=5.0):
        self.scores, self.threshold = np.asarray(scores, float), threshold

    def detect(self, batch, seed):
        suspects = tuple(int(i) for i in np.flatnonzero(self.scores > self.threshold))
        return Detection(self.scores, self.threshold, suspects, ("",) * len(batch))

    def more(self, batch, detection, judged):
        return ()


def test_a_conviction_lowers_the_threshold_to_those_as_odd_but_never_into_the_crowd():
    rng = np.random.default_rng(0)
    batch = batch_of(rng.normal(size=(10, 50)).astype(np.float32))
    detector = Sequential(Given([4.9, 4.8, 4.7, 4.0, 3.8, 2.9, 1, 1, 1, 1]), audits=0, patience=1)
    detection = detector.detect(batch, 0)
    assert detection.suspects == ()
    assert detector.more(batch, detection, {0: True})[:3] == (1, 2, 3)  # .8 x 4.9 = 3.92
    assert detector.more(batch, detection, {0: True, 1: True})[:2] == (2, 3)  # .8 x 4.8 = 3.84
    low = detector.more(batch, detection, {6: True})  # an audit of somebody inconspicuous
    assert set(low) >= {0, 1, 2, 3, 4} and len(low) == 6  # above the floor, and one look-alike


def test_as_odd_is_four_fifths_of_the_least_convicted_and_at_least_three():
    batch = batch_of(np.random.default_rng(0).normal(size=(10, 50)).astype(np.float32))
    detector = Sequential(Given([6.0, 5.0, 4.0, 3.99, 3.0, 2.99, 1, 1, 1, 1], threshold=9.0), audits=0, patience=1)
    detection = detector.detect(batch, 0)
    named = detector.more(batch, detection, {0: True, 1: True})  # .8 x 5 = 4
    assert named[0] == 2 and len(named) == 1 + 2  # and as many look-alikes as were convicted
    named = detector.more(batch, detection, {3: True})  # .8 x 3.99 = 3.19
    assert named[:3] == (0, 1, 2) and len(named) == 3 + 1
    named = detector.more(batch, detection, {6: True})  # an audit of somebody inconspicuous
    assert named[:5] == (0, 1, 2, 3, 4) and len(named) == 5 + 1


@pytest.mark.parametrize(("alike", "next_"), [(0, 2), (1, 2), (2, 2), (3, 3), (5, 5)])
def test_as_many_look_alikes_are_asked_as_were_convicted(alike, next_):
    batch = cluster(n=30, bad=20)
    detector = Sequential(first=Nothing(0), audits=0, patience=2)
    found = detector.detect(batch, 0)
    assert len(detector.more(batch, found, dict.fromkeys(range(alike + 1), True))) == next_


def test_the_last_clean_look_alikes_end_it_whatever_came_before():
    detector, batch = Sequential(first=Nothing(0), audits=0, patience=2), cluster()
    found = detector.detect(batch, 0)
    assert detector.more(batch, found, {0: True, 1: True, 24: False, 25: False}) == ()
    assert detector.more(batch, found, {0: True, 24: False, 1: True, 25: False})
    assert detector.more(batch, found, {0: True, 24: False})


def test_nobody_is_left_to_ask():
    batch, detector = cluster(n=4, bad=4), Sequential(first=Nothing(0, 1), audits=0)
    found = detector.detect(batch, 0)
    assert detector.more(batch, found, {0: True, 1: True, 2: True, 3: True}) == ()
    assert detector.more(batch, found, {0: True, 1: True, 2: True}) == (3,)
    for fewest in ({"audits": 0}, {"patience": 1}):
        assert Sequential(**fewest)


def test_likeness_of_clones_is_finite_and_without_cleared_it_is_the_distance_alone():
    batch = batch_of(np.array([[0.0], [0.0], [4.0], [8.0]]))
    np.testing.assert_allclose(look_alike(batch, [0], [3])[[1, 2]], np.log([8 / 8e-12, 4 / 4]))
    np.testing.assert_allclose(look_alike(batch, [0], []), -np.log([8e-12, 8e-12, 4, 8]))


def test_without_a_multiview_all_suspects_are_grave():
    batch = batch_of(crowd(10))
    found = Detection(np.zeros(10), 1.0, (3, 4), ("",) * 10)
    assert Sequential(first=Nothing(3, 4)).grave(batch, found) == (3, 4)
    assert Sequential().grave(batch, found) == MultiView().detect(batch).suspects
    assert MultiView().grave(batch, found) == (3, 4) and MultiView().more(batch, found, {3: True}) == ()
