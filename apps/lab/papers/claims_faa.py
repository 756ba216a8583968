"""What the paper on FAA-DL claims."""

from __future__ import annotations

from typing import Any

from apps.lab.papers.claims import Claim, Measure, best, least, mean, minus, over

FAA, PRINTED = "FAA-DL", "FAA-DL (printed)"
PASSIVE = ["trimmed mean", "GeoMed", "Krum"]
OTHERS = [*PASSIVE, "FedAvg", "OC"]
ATTACKS = ["Gaussian", "sign flip", "ALIE"]


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
            "least share of the malicious updates among the suspects, over attacks",
            least([mean("suspected", defence=name, attack=a) for a in ATTACKS]),
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

    weak: dict[str, Any] = {"attack": "sign flip", "share": [0.1, 0.2]}
    strong: dict[str, Any] = {"attack": "sign flip", "share": [0.3, 0.4]}
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


FAA_CLAIMS: tuple[Claim, ...] = (*_faa(PRINTED), *_faa(FAA), *_faa_surroundings())

#: Claims that no run here can speak to, and why.
FAA_NOT_RUN = (
    (
        "FAA-DL, Sec. VI, VII-B4",
        "less than 1 ms a device and 10 ms a server, from operations, on seven Raspberry Pi 4 and a cloud server",
        "no Raspberry Pi or GPU here",
    ),
)
