"""What both papers claim, and how it is measured here: one figure a seed, and what it must be for the claim to hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from apps.lab.results_data import Results, select

Measure = Callable[[Results], "pd.Series[float]"]
FAA, PRINTED, LOMAR, LOMAR_PRINTED = "FAA-DL", "FAA-DL (printed)", "LoMar", "LoMar (printed)"
PASSIVE = ["trimmed mean", "GeoMed", "Krum"]
OTHERS = [*PASSIVE, "FedAvg", "OC"]
ATTACKS = ["Gaussian", "sign flip", "ALIE"]
MNIST2, FASHION2 = "MNIST, two labels", "Fashion-MNIST, two labels"


@dataclass(frozen=True)
class Claim:
    """One claim.

    Parameters
    ----------
    source : str
        Where the paper makes it.
    says : str
    experiment : str
    shows : str
        What the figure is.
    measure : callable
        The figure of each seed.
    least, most : float or None
        Between what the figure must be.
    absolute : bool
        The paper's own figure: on other data it says nothing.
    """

    source: str
    says: str
    experiment: str
    shows: str
    measure: Measure
    least: float | None = None
    most: float | None = None
    absolute: bool = False


def mean(metric: str = "final_accuracy", **conditions: Any) -> Measure:
    """By seed the mean of the runs with these values."""
    return lambda of: select(of.runs, conditions).groupby("seed")[metric].mean()


def best(of_each: list[Measure]) -> Measure:
    """By seed the largest."""
    return lambda of: pd.concat([m(of) for m in of_each], axis=1).max(axis=1)


def least(of_each: list[Measure]) -> Measure:
    """By seed the smallest."""
    return lambda of: pd.concat([m(of) for m in of_each], axis=1).min(axis=1)


def minus(one: Measure, other: Measure) -> Measure:
    """By seed the difference."""
    return lambda of: one(of) - other(of)


def over(one: Measure, other: Measure) -> Measure:
    """By seed how many times as much, less one: 0 is equal."""
    return lambda of: one(of) / other(of) - 1


def _faa(name: str) -> list[Claim]:
    """The claims about FAA-DL, for one of its two detectors."""

    def gap(attack: str, **more: Any) -> Measure:
        return minus(mean(defence="ideal", attack=attack, **more), mean(defence=name, attack=attack, **more))

    def lead(attack: str, others: list[str]) -> Measure:
        return minus(mean(defence=name, attack=attack), best([mean(defence=o, attack=attack) for o in others]))

    says = f"{name}: "
    return [
        *(
            Claim(
                "FAA-DL, Sec. VII-B2",
                says + f"within .92 to 2.48 points of the ideal, {data}, {attack}, share .4",
                table,
                "ideal minus FAA-DL, share of the test samples",
                gap(attack),
                most=0.0248,
            )
            for table, data in (("faa/table2", "MNIST"), ("faa/table3", "Fashion-MNIST"))
            for attack in ATTACKS
        ),
        Claim(
            "FAA-DL, Sec. VII-B2",
            says + "best accuracy 89.95 % on MNIST",
            "faa/table2",
            "largest accuracy of the attacks",
            best([mean(defence=name, attack=a) for a in ATTACKS]),
            least=0.8995,
            absolute=True,
        ),
        *(
            Claim(
                "FAA-DL, Sec. VII-B2, Tables II, III",
                says + f"no other defence is better, {data}, {attack}, share .4",
                table,
                "FAA-DL minus the best of trimmed mean, GeoMed, Krum, FedAvg, OC",
                lead(attack, OTHERS),
                least=0.0,
            )
            for table, data in (("faa/table2", "MNIST"), ("faa/table3", "Fashion-MNIST"))
            for attack in ATTACKS
        ),
        *(
            Claim(
                "FAA-DL, abstract, Sec. VII-B3",
                says + f"1.44x to 6.90x better than FedAvg, {attack}, share .4",
                "faa/fig8",
                "accuracy over FedAvg's, less 1",
                over(mean(defence=name, attack=attack, share=0.4), mean(defence="FedAvg", attack=attack, share=0.4)),
                least=1.44,
            )
            for attack in ATTACKS
        ),
        Claim(
            "FAA-DL, Sec. VII-B2",
            says + "without attack as accurate as FedAvg",
            "faa/table2",
            "FedAvg minus FAA-DL",
            minus(mean(defence="FedAvg", attack="none"), mean(defence=name, attack="none")),
            most=0.01,
        ),
        Claim(
            "FAA-DL, Fig. 7",
            says + "as accurate as the ideal at every share from .1 to .4",
            "faa/fig7",
            "largest gap to the ideal over attacks and shares",
            best([gap(a, share=s) for a in ATTACKS for s in (0.1, 0.2, 0.3, 0.4)]),
            most=0.0248,
        ),
        Claim(
            "FAA-DL, Fig. 4, Sec. VII-B1",
            says + "almost all malicious updates are among the suspects",
            "faa/fig4",
            "least share of the attackers caught, over attacks",
            least([mean("recall", defence=name, attack=a) for a in ATTACKS]),
            least=0.95,
        ),
        *(
            Claim(
                f"FAA-DL, Table {table[1]}, Sec. VII-B5",
                says + f"a round costs about 27 % more than FedAvg's, {table[2]}",
                table[0],
                "CPU seconds a round over FedAvg's, less 1, plain replay",
                over(
                    mean("cpu_seconds_a_round", defence=name, attack=ATTACKS),
                    mean("cpu_seconds_a_round", defence="FedAvg", attack=ATTACKS),
                ),
                most=0.27,
            )
            for table in (("faa/table4", "IV", "MNIST"), ("faa/table5", "V", "Fashion-MNIST"))
        ),
    ]


def _faa_surroundings() -> list[Claim]:
    """The claims about what FAA-DL is compared with."""

    def fall(attack: str) -> Measure:
        ends = [mean(defence="FedAvg", attack=attack, share=share) for share in (0.1, 0.4)]
        return minus(*ends)

    weak = {"attack": "sign flip", "share": [0.1, 0.2]}
    strong = {"attack": "sign flip", "share": [0.3, 0.4]}
    cost = "CPU seconds a round over FedAvg's, less 1, plain replay"
    fedavg = mean("cpu_seconds_a_round", defence="FedAvg", attack=ATTACKS)

    def dearest(name: str) -> Measure:
        rest = [d for d in [*PASSIVE, "FedAvg", "OC", "FE", FAA] if d != name]
        others = [mean("cpu_seconds_a_round", defence=d, attack=ATTACKS) for d in rest]
        return minus(mean("cpu_seconds_a_round", defence=name, attack=ATTACKS), best(others))

    return [
        *(
            Claim(
                "FAA-DL, Fig. 2, Eq. 6",
                f"more malicious clients, less accuracy: {attack}",
                "faa/fig2",
                "FedAvg's accuracy at share .1 minus that at .4",
                fall(attack),
                least=0.0,
            )
            for attack in ATTACKS
        ),
        Claim(
            "FAA-DL, Sec. VII-B2",
            "passive defences reach about 60 % at best, share .4",
            "faa/table2",
            "best accuracy of trimmed mean, GeoMed and Krum over the attacks",
            best([mean(defence=d, attack=a) for d in PASSIVE for a in ATTACKS]),
            most=0.65,
        ),
        Claim(
            "FAA-DL, Fig. 8, Sec. VII-B6",
            "OC is close to the ideal up to share .2, sign flip",
            "faa/fig8",
            "ideal minus OC, mean of shares .1 and .2",
            minus(mean(defence="ideal", **weak), mean(defence="OC", **weak)),
            most=0.05,
        ),
        Claim(
            "FAA-DL, Fig. 8, Sec. VII-B6",
            "OC falls dramatically above share .2, sign flip",
            "faa/fig8",
            "ideal minus OC, mean of shares .3 and .4",
            minus(mean(defence="ideal", **strong), mean(defence="OC", **strong)),
            least=0.2,
        ),
        Claim(
            "FAA-DL, Sec. VII-B2",
            "OC fails under ALIE",
            "faa/table2",
            "ideal minus OC",
            minus(mean(defence="ideal", attack="ALIE"), mean(defence="OC", attack="ALIE")),
            least=0.05,
        ),
        Claim(
            "FAA-DL, Fig. 8",
            "trimmed mean falls from 88 % to below 60 %, Gaussian, shares .1 to .4",
            "faa/fig8",
            "accuracy at share .1 minus that at .4",
            minus(*(mean(defence="trimmed mean", attack="Gaussian", share=s) for s in (0.1, 0.4))),
            least=0.2,
        ),
        *(
            Claim(
                f"FAA-DL, Table {number}, Sec. VII-B5",
                f"a round costs about 64 % more where everybody is verified (FE), {data}",
                table,
                cost,
                over(mean("cpu_seconds_a_round", defence="FE", attack=ATTACKS), fedavg),
                least=0.4,
                most=0.9,
            )
            for table, number, data in (("faa/table4", "IV", "MNIST"), ("faa/table5", "V", "Fashion-MNIST"))
        ),
        Claim(
            "FAA-DL, Table IV",
            "detection alone (OC) costs about what FedAvg does",
            "faa/table4",
            cost,
            over(mean("cpu_seconds_a_round", defence="OC", attack=ATTACKS), fedavg),
            most=0.1,
        ),
        Claim(
            "FAA-DL, Sec. VII-B4",
            "trimmed mean is the slowest on MNIST",
            "faa/table4",
            "CPU seconds a round more than the next",
            dearest("trimmed mean"),
            least=0.0,
        ),
        Claim(
            "FAA-DL, Sec. VII-B4",
            "Krum is the slowest on Fashion-MNIST",
            "faa/table5",
            "CPU seconds a round more than the next",
            dearest("Krum"),
            least=0.0,
        ),
        Claim(
            "FAA-DL, Fig. 9",
            "the server's defence costs less than 10 ms a round",
            "faa/fig9",
            "seconds a round for detection, evidence and averaging, 20 clients, share .2",
            mean("defence_seconds_a_round", clients=20),
            most=0.01,
        ),
    ]


def _lomar(name: str) -> list[Claim]:
    """The claims about LoMar, for one of its two presets."""
    rivals = ["FG", "MultiKrum", "FG + Krum", "median", "FedAvg"]
    says = f"{name}: "

    def lead(metric: str, **where: Any) -> Measure:
        others = [mean(metric, defence=d, data="MNIST", **where) for d in rivals]
        return minus(mean(metric, defence=name, data="MNIST", **where), best(others))

    def gap(metric: str) -> Measure:
        return minus(mean(metric, defence="ideal", data="MNIST"), mean(metric, defence=name, data="MNIST"))

    figures = (("overall", "final_accuracy"), ("target", "source"), ("other", "other"))
    return [
        *(
            Claim(
                "LoMar, Table 3, MNIST",
                says + f"{what} accuracy {ours} against {ideal} without attack",
                "lomar/table3",
                "no attack minus LoMar",
                gap(metric),
                most=round(ideal - ours + 0.005, 3),
            )
            for (what, metric), ours, ideal in zip(figures, (0.912, 0.977, 0.930), (0.931, 0.982, 0.946), strict=True)
        ),
        *(
            Claim(
                "LoMar, Table 3, MNIST",
                says + f"best {what} accuracy of all defences",
                "lomar/table3",
                "LoMar minus the best of FG, MultiKrum, FG + Krum, median, no defence",
                lead(metric),
                least=0.0,
            )
            for what, metric in figures
        ),
        Claim(
            "LoMar, Table 4",
            says + "best overall accuracy under four flips, .885 against .802",
            "lomar/table4",
            "LoMar minus the best other defence",
            lead("final_accuracy"),
            least=0.0,
        ),
        *(
            Claim(
                "LoMar, Fig. 4a",
                says + f"{what} accuracy stays as tau grows to .4",
                "lomar/fig4",
                "accuracy at tau .1 minus that at .4",
                minus(*(mean(metric, defence=name, data="MNIST", tau=tau) for tau in (0.1, 0.4))),
                most=0.02,
            )
            for what, metric in figures[:2]
        ),
        *(
            Claim(
                "LoMar, Fig. 5",
                says + f"best overall accuracy at lambda {share:g}",
                "lomar/fig5",
                "LoMar minus the best other defence",
                lead("final_accuracy", **{"lambda": share}),
                least=0.0,
            )
            for share in (0.1, 0.5, 0.9)
        ),
        Claim(
            "LoMar, Fig. 7a",
            says + "largest area under the ROC curve on MNIST",
            "lomar/fig7",
            "LoMar's area minus the largest of FG, MultiKrum, FG + Krum",
            minus(
                mean("auc", defence=name, data="MNIST"),
                best([mean("auc", defence=d, data="MNIST") for d in rivals[:3]]),
            ),
            least=0.0,
        ),
        Claim(
            "LoMar, Fig. 8, App. A",
            says + "overall accuracy .772 under model poisoning at tau .4",
            "lomar/fig8",
            "accuracy",
            mean(defence=name, data="MNIST", tau=0.4),
            least=0.772,
            absolute=True,
        ),
        Claim(
            "LoMar, Fig. 8, App. A",
            says + "target accuracy .633 under model poisoning at tau .4",
            "lomar/fig8",
            "accuracy on the source label",
            mean("source", defence=name, data="MNIST", tau=0.4),
            least=0.633,
            absolute=True,
        ),
        Claim(
            "LoMar, Fig. 9, App. A",
            says + "30 % better than FG + Krum under model poisoning at lambda .9",
            "lomar/fig9",
            "accuracy over FG + Krum's, less 1",
            over(
                mean(defence=name, data="MNIST", **{"lambda": 0.9}),
                mean(defence="FG + Krum", data="MNIST", **{"lambda": 0.9}),
            ),
            least=0.3,
        ),
    ]


def _lomar_surroundings() -> list[Claim]:
    """The claims about what LoMar is compared with, and about its threshold."""

    def of(defence: str, metric: str) -> Measure:
        return mean(metric, defence=defence, data="MNIST")

    def eps(metric: str, this: float, others: list[float]) -> Measure:
        return minus(mean(metric, eps=this), best([mean(metric, eps=e) for e in others]))

    return [
        Claim(
            "LoMar, Table 3, MNIST",
            "without defence the target label's accuracy falls to .078",
            "lomar/table3",
            "accuracy on the source label",
            of("FedAvg", "source"),
            most=0.2,
        ),
        Claim(
            "LoMar, Table 3, MNIST",
            "Krum does not defend: the target label's accuracy is .051",
            "lomar/table3",
            "accuracy on the source label",
            of("MultiKrum", "source"),
            most=0.2,
        ),
        Claim(
            "LoMar, Table 3, MNIST",
            "FoolsGold harms the other labels, .512",
            "lomar/table3",
            "no attack minus FoolsGold, other labels",
            minus(of("ideal", "other"), of("FG", "other")),
            least=0.2,
        ),
        Claim(
            "LoMar, Table 3, MNIST",
            "the median is worst overall, .655",
            "lomar/table3",
            "no attack minus median",
            minus(of("ideal", "final_accuracy"), of("median", "final_accuracy")),
            least=0.2,
        ),
        Claim(
            "LoMar, Fig. 7a",
            "Krum's ROC curve is close to chance",
            "lomar/fig7",
            "area under the curve, distance from .5",
            lambda r: (of("MultiKrum", "auc")(r) - 0.5).abs(),
            most=0.1,
        ),
        Claim(
            "LoMar, Fig. 2",
            "malicious updates lie close to clean ones in a global view",
            "lomar/fig2",
            "area under the ROC curve of MultiKrum's distances, mixed flips, tau .1",
            mean("auc", defence="MultiKrum", attack="mixed label flip", tau=0.1),
            most=0.8,
        ),
        Claim(
            "LoMar, Fig. 10, App. D",
            "eps 1 is best: mean of overall and target accuracy",
            "lomar/fig10",
            "eps 1 minus the best of .8, .9, 1.1, 1.2",
            lambda r: (
                0.5 * (mean(eps=1.0)(r) + mean("source", eps=1.0)(r))
                - pd.concat(
                    [0.5 * (mean(eps=e)(r) + mean("source", eps=e)(r)) for e in (0.8, 0.9, 1.1, 1.2)], axis=1
                ).max(axis=1)
            ),
            least=0.0,
        ),
        Claim(
            "LoMar, Fig. 10, App. D",
            "eps below 1: the target label falls",
            "lomar/fig10",
            "target accuracy at eps 1 minus that at .8",
            eps("source", 1.0, [0.8]),
            least=0.01,
        ),
    ]


CLAIMS: tuple[Claim, ...] = (
    *_faa(PRINTED),
    *_faa(FAA),
    *_faa_surroundings(),
    *_lomar(LOMAR_PRINTED),
    *_lomar(LOMAR),
    *_lomar_surroundings(),
)

#: Claims that no run here can speak to, and why.
NOT_RUN: tuple[tuple[str, str, str], ...] = tuple(
    (source, says, f"{data} has to be downloaded and is not on this machine; `experiment={name} size=paper` runs it")
    for source, says, data, name in (
        ("LoMar, Table 3, KDD", "LoMar .971 overall, .991 target, .990 other", "KDDCup99", "lomar/table3"),
        ("LoMar, Table 3, Amazon", "LoMar .970 overall, .988 target, .989 other", "Amazon", "lomar/table3"),
        ("LoMar, Table 5", "LoMar .897 overall, .839 target, .912 other", "VGGFace2", "lomar/table5"),
        (
            "LoMar, Fig. 4b, 4c",
            "98 % and 99 % at every tau; falls with tau, but least",
            "KDDCup99 or Amazon",
            "lomar/fig4",
        ),
        ("LoMar, Fig. 5b, 5c", "LoMar falls least as lambda grows", "KDDCup99 or Amazon", "lomar/fig5"),
        ("LoMar, Fig. 6", "no significant fall up to tau .4 and lambda .7", "VGGFace2", "lomar/fig6"),
        (
            "LoMar, Fig. 7b-d",
            "FG + Krum best on KDD, FG on Amazon, LoMar on VGGFace2",
            "each of the three data sets",
            "lomar/fig7",
        ),
        ("LoMar, Fig. 8c, 8d, 9c, 9d", "LoMar best under model poisoning", "VGGFace2", "lomar/fig8"),
    )
) + (
    (
        "FAA-DL, Sec. VI, VII-B4",
        "less than 1 ms a device and 10 ms a server, computed from operations, on seven Raspberry Pi 4 and a cloud server",
        "no Raspberry Pi or GPU here",
    ),
)
