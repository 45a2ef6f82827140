"""One contrast, seed by seed or model by model: whoever ran it, on whatever device, and what all of them say
together."""

from pathlib import Path

from rsf import checks, plots
from rsf.lab import records, verdicts
from rsf.lab.report.parts import limits, save


def models_figure(file: Path | None = None) -> None:
    """Draw what keeping batches by their loss gains in each of four models of one recipe."""
    forest_figure(verdicts.judged(*verdicts.contrasts("imdb-models")), file)


def forest_figure(finding: verdicts.Finding, file: Path | None) -> Path | None:
    """Draw the difference in each declared seed, with 95 % limits over its test examples, then that of all.

    Of sections among which a difference may be another: that in each of them, with 95 % limits over its
    seeds, then the largest minus the smallest. While a seed is missing, nothing is said of all. Without a
    file it is shown.
    """
    contrast, found = finding.contrast, finding.difference
    rows = {
        name: verdicts.difference(
            *(verdicts.of_arm(name, arm) for arm in records.protocol(contrast.experiment)["contrast"]),
            measure=contrast.measure,
            interval=contrast.interval,
        )
        for name in contrast.among
        if found
    }
    arms = [verdicts.of_arm(contrast.experiment, arm) for arm in (contrast.arm, contrast.against)]
    for seed in () if rows else records.protocol(contrast.experiment)["seeds"]:
        each = [verdicts.of_each(arm[seed], contrast.measure) for arm in arms if seed in arm]
        rows[str(seed)] = checks.paired_difference(*each) if len(each) == 2 else None
    told = f"{limits(found, 2 if contrast.unit else 4, contrast.unit)}, " if found else ""
    whole = "largest - smallest" if contrast.among else "all"
    of = "Gains of models" if contrast.among else contrast.name
    title = f"{of}, {whole}: {told}{finding.judgement.word}"
    with plots.figure(title, width=9, height=1.8 + 0.22 * len(rows)) as axis:
        for place, (name, one) in enumerate((rows | {whole: found}).items()):
            style = {"color": plots.TARGET, "linewidth": 4} if name == whole else {"color": plots.KEPT}
            if one is None:
                axis.text(0, place, " missing" * (name != whole), color=plots.REJECTED, va="center")
            else:
                axis.plot([one.low, one.estimate, one.high], [place] * 3, marker="o", markevery=[1], **style)
        axis.axvline(0, color=plots.TARGET, linewidth=1)
        axis.axvline(
            contrast.sign * (contrast.smallest_gain or -contrast.margin) * (100 if contrast.unit else 1),
            color="black",
            linewidth=0.8,
            linestyle=":",
        )
        axis.set(
            yticks=range(len(rows) + 1),
            yticklabels=[*rows, whole],
            ylim=(len(rows) + 0.6, -0.6),
            xlabel=f"{contrast.measure}, difference{contrast.unit and ' in'}{contrast.unit}; "
            "dotted: the smallest worth having",
            title=(
                "a model: 95 % over its seeds" if contrast.among else "a seed: 95 % over its test examples"
            )
            + f"; {whole}: {100 * (1 - contrast.level):.4g} %",
        )
        save(axis, file) if file else plots.plt.show()
    return file
