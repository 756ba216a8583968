"""What the paper on LoMar claims."""

from __future__ import annotations

from typing import Any

import pandas as pd

from apps.lab.papers.claims import Claim, Measure, best, mean, minus, over

#: Fig. 9's hardest split; ``lambda`` is no name for an argument.
SKEWED: dict[str, Any] = {"data": "MNIST", "lambda": 0.9}
LOMAR, PRINTED = "LoMar", "LoMar (printed)"


def _lomar(name: str) -> list[Claim]:
    """The claims about LoMar, for one of its two presets."""
    rivals = ["FG", "MultiKrum", "FG + Krum", "median", "FedAvg"]
    says = f"{name}: "

    def lead(metric: str, **where: Any) -> Measure:
        others = [mean(metric, defence=d, data="MNIST", **where) for d in rivals]
        return minus(mean(metric, defence=name, data="MNIST", **where), best(others))

    def gap(metric: str) -> Measure:
        return minus(mean(metric, defence="no attack", data="MNIST"), mean(metric, defence=name, data="MNIST"))

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
                mean(defence=name, **SKEWED),
                mean(defence="FG + Krum", **SKEWED),
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
            minus(of("no attack", "other"), of("FG", "other")),
            least=0.2,
        ),
        Claim(
            "LoMar, Table 3, MNIST",
            "the median is worst overall, .655",
            "lomar/table3",
            "no attack minus median",
            minus(of("no attack", "final_accuracy"), of("median", "final_accuracy")),
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


LOMAR_CLAIMS: tuple[Claim, ...] = (*_lomar(PRINTED), *_lomar(LOMAR), *_lomar_surroundings())

#: Claims that no run here can speak to, and why.
LOMAR_NOT_RUN = tuple(
    (source, says, f"{data} has to be downloaded and is not here; `experiment={name} size=paper` runs it")
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
)
