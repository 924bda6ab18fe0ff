"""The joined tables of a paper as Markdown, CSV and LaTeX: one source, the lines of `tables.joined`."""

import math

from ganspect.reproduce.tables import LEGEND, show

NAMES = ("category", "method", "metric", "printed", "paper", "clean", "interval", "verdict")
RIVALS = ("category", "metric", "first", "a", "second", "b", "epochs", "difference", "interval", "p", "test")
RIVAL_HEADS = (
    "category",
    "metric",
    "first",
    "value",
    "second",
    "value",
    "epochs",
    "difference",
    "95 % interval",
    "p",
    "test",
)
TESTED = (
    "On the same test images, first score, paper protocol. Without three seeds each, p and interval speak of test "
    "images like these and of these two trainings, not of other seeds. p values are not adjusted."
)
LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}"}
)


def footnotes(lines):
    """What was reduced and remarked, each text once.

    Args:
        lines: one table of `joined`.

    Returns:
        `(texts, numbers)`: the texts in order, and for each line the number of its text from 1, or "".
    """
    texts = ["; ".join(x for x in (line["budget"], line["note"]) if x) for line in lines]
    unique = list(dict.fromkeys(text for text in texts if text))
    return unique, [unique.index(text) + 1 if text else "" for text in texts]


def rival(row):
    """A row of `compare.rivals` as texts."""
    texts = {name: show(row[name], row["metric"]) for name in ("a", "b")}
    texts |= {"difference": f"{row['difference']:+.3f}", "p": "", "interval": "no variance"}
    if not math.isnan(row["p"]):
        texts |= {"p": f"{row['p']:.3g}", "interval": f"{row['low']:+.3f} to {row['high']:+.3f}"}
    return {**row, **texts}


def markdown(paper, tables, checked=(), rivals=()):
    """The joined tables, the checked claims (see `claims`) and the tests of `compare.rivals` as Markdown."""
    out = [f"# {paper.TITLE}", "", LEGEND, ""]
    heads = (
        "category",
        "method",
        "metric",
        "printed",
        "ours, paper protocol",
        "ours, clean",
        "95 % interval",
        "verdict",
    )
    for name, lines in tables.items():
        texts, numbers = footnotes(lines)
        out += [f"## {paper.TABLES[name]['title']}", "", "| " + " | ".join((*heads, "note")) + " |"]
        out.append("|" + "---|" * (len(heads) + 1))
        out += [
            "| " + " | ".join([*(line[n] for n in NAMES), f"({k})" if k else ""]) + " |"
            for line, k in zip(lines, numbers, strict=True)
        ]
        out += ["", *(f"({k}) {text}  " for k, text in enumerate(texts, 1)), ""]
    if checked:
        out += ["## Claims of the paper", ""]
        out += [f"- {claim}: **{state}** ({evidence})" for claim, state, evidence in checked] + [""]
    if rivals:
        out += ["## Methods that the paper compares, tested", "", "| " + " | ".join(RIVAL_HEADS) + " |"]
        out.append("|" + "---|" * len(RIVALS))
        out += ["| " + " | ".join(rival(row)[name] for name in RIVALS) + " |" for row in rivals]
        out += ["", TESTED, ""]
    return "\n".join(out)


def as_csv(joined):
    """The joined tables as rows for one CSV file: `[{"table": ..., ...}]`."""
    names = (*NAMES, "budget", "note")
    return [
        {"table": table} | {name: line[name] for name in names} for table, lines in joined.items() for line in lines
    ]


def latex(paper, tables):
    """The joined tables as LaTeX with notes, one `longtable` each; they need `\\usepackage{longtable,booktabs}`."""
    heads = ("category", "method", "metric", "printed", "paper", "clean", "95\\,\\% interval", "verdict", "note")
    out = [f"% {paper.TITLE}"]
    for name, lines in tables.items():
        texts, numbers = footnotes(lines)
        out += ["\\begin{longtable}{lllrrrlll}", f"\\caption{{{paper.TABLES[name]['title'].translate(LATEX)}}}\\\\"]
        out += ["\\toprule", " & ".join(heads) + " \\\\", "\\midrule", "\\endhead"]
        out += [
            " & ".join([*(line[n].translate(LATEX) for n in NAMES), f"({k})" if k else ""]) + " \\\\"
            for line, k in zip(lines, numbers, strict=True)
        ]
        out += ["\\bottomrule", "\\end{longtable}"]
        out += [f"\\noindent({k}) {text.translate(LATEX)}\\par" for k, text in enumerate(texts, 1)]
        out += [""]
    return "\n".join(out)
