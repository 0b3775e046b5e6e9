#!/usr/bin/env bash
# One would guess: a head whose effect is zero on every prompt has no p-value (0/0). A correction for many heads leaves
#   it undefined and not rejected, and the others' answers agree with their corrected p-values.
# Seen: `multipletests` of statsmodels with its default, Holm-Sidak, or with "holm" calls such a head significant as
#   soon as all others are; if no head has an effect, all of them. These start at the smallest p and stop at the first
#   that is too large; undefined ones are sorted last, and nan > limit is false. Methods that start at the largest, such
#   as "fdr_bh", reject the right ones but give nan as corrected p-value of every head, so that `p <= 0.05` finds none.
#   "hommel" rejects none.
# Means: one dead head, or a patch that changes nothing, adds itself to a circuit or empties it, by method and by which
#   of the two answers is read. SciPy's false_discovery_control refuses nan. Set such p-values to 1 before correcting.
# With: statsmodels 0.15.0 (stats/multitest.py), scipy 1.17.1, on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet statsmodels==0.15.0 scipy==1.17.1
cat > "$folder/try.py" <<'PY'
import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

generator = np.random.default_rng(0)
STRONG = [np.full(20, effect) + generator.normal(size=20) for effect in (2.0, 3.0)]
WEAK = np.tile([1.0, -1.1], 10)
DEAD = np.zeros(20)
METHODS = ("hs", "holm", "bonferroni", "fdr_bh", "simes-hochberg", "hommel")


def test(heads):
    return [stats.ttest_1samp(effects, 0).pvalue for effects in heads]


def join(answers):
    return " ".join("yes" if answer else "no" for answer in answers)


def show(title, p_values):
    for method in METHODS:
        reject, corrected, *_ = multipletests(p_values, method=method)
        print(f"{title}: {method}: rejected: {join(reject)}; corrected p <= 0.05: {join(corrected <= 0.05)}")


print("p of a dead head:", test([DEAD])[0])
show("strong, strong, dead", test([*STRONG, DEAD]))
show("strong, weak, dead", test([STRONG[0], WEAK, DEAD]))
show("dead, dead", test([DEAD, DEAD]))
try:
    stats.false_discovery_control(test([*STRONG, DEAD]))
except ValueError as error:
    print("SciPy:", error)
PY
"$folder/venv/bin/python" -W ignore "$folder/try.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
p of a dead head: nan
strong, strong, dead: hs: rejected: yes yes yes; corrected p <= 0.05: yes yes no
strong, strong, dead: holm: rejected: yes yes yes; corrected p <= 0.05: yes yes no
strong, strong, dead: bonferroni: rejected: yes yes no; corrected p <= 0.05: yes yes no
strong, strong, dead: fdr_bh: rejected: yes yes no; corrected p <= 0.05: no no no
strong, strong, dead: simes-hochberg: rejected: yes yes no; corrected p <= 0.05: no no no
strong, strong, dead: hommel: rejected: no no no; corrected p <= 0.05: no no no
strong, weak, dead: hs: rejected: yes no no; corrected p <= 0.05: yes no no
strong, weak, dead: holm: rejected: yes no no; corrected p <= 0.05: yes no no
strong, weak, dead: bonferroni: rejected: yes no no; corrected p <= 0.05: yes no no
strong, weak, dead: fdr_bh: rejected: yes no no; corrected p <= 0.05: no no no
strong, weak, dead: simes-hochberg: rejected: yes no no; corrected p <= 0.05: no no no
strong, weak, dead: hommel: rejected: no no no; corrected p <= 0.05: no no no
dead, dead: hs: rejected: yes yes; corrected p <= 0.05: no no
dead, dead: holm: rejected: yes yes; corrected p <= 0.05: no no
dead, dead: bonferroni: rejected: no no; corrected p <= 0.05: no no
dead, dead: fdr_bh: rejected: no no; corrected p <= 0.05: no no
dead, dead: simes-hochberg: rejected: no no; corrected p <= 0.05: no no
dead, dead: hommel: rejected: no no; corrected p <= 0.05: no no
SciPy: `ps` must include only numbers between 0 and 1.
SEEN
