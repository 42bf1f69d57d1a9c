"""Records ratings beside style: arena-rank's and statsmodels' numbers on made-up battles, for `evalign-stats`.

    python tests/peers/ratings.py > crates/stats/src/contextual/peers.txt

(arena-rank 0.1.1, statsmodels 0.15, pandas.) Four competitors, 300 battles of 100 prompts (three a prompt), ties, four
features. Cases: without a ridge (statsmodels' clustered GLM),
and with a ridge of 1 beside the sum of log-likelihoods (arena-rank, whose likelihood is a mean, with reg = 1/n; the
sandwich by the formula, from arena-rank's estimates). Fails where the peers do not agree with each other.
"""

import numpy as np
import pandas as pd
import statsmodels.api as sm
from arena_rank.models.contextual_bradley_terry import ContextualBradleyTerry
from arena_rank.utils.data_utils import ContextualPairDataset

COUNT, STYLES, PROMPTS, Z = 4, 4, 100, 1.959963984540054
PER_NAT = 400 / np.log(10)


def battles():
    random = np.random.default_rng(1117)
    strengths, slopes = np.array([0.6, 0.1, -0.2, -0.5]), np.array([0.8, 0.0, -0.3, 0.2])
    prompt = np.repeat(np.arange(PROMPTS), 3)
    a = random.integers(0, COUNT, len(prompt))
    b = (a + random.integers(1, COUNT, len(prompt))) % COUNT
    x = np.round(random.normal(size=(len(prompt), STYLES)), 2)
    odds = strengths[a] - strengths[b] + x @ slopes + random.normal(size=PROMPTS)[prompt] * 0.5
    won = (random.random(len(prompt)) < 1 / (1 + np.exp(-odds))).astype(float)
    return a, b, np.where(random.random(len(prompt)) < 0.15, 0.5, won), x, prompt


def design(a, b, x):
    """Competitors over the last one, then styles."""
    rows = np.arange(len(a))
    hot = np.zeros((len(a), COUNT))
    hot[rows, a] += 1
    hot[rows, b] -= 1
    return np.column_stack([hot[:, :-1], x])


def contrasts():
    """From competitors over the last one to all of them with mean 0, and styles as they are."""
    centre = np.vstack([np.eye(COUNT - 1), np.zeros(COUNT - 1)]) - 1 / COUNT
    return np.block([[centre, np.zeros((COUNT, STYLES))], [np.zeros((STYLES, COUNT - 1)), np.eye(STYLES)]])


def sandwich(features, y, prompt, beta, ridge):
    p = 1 / (1 + np.exp(-features @ beta))
    penalty = np.diag([0.0] * (COUNT - 1) + [ridge] * STYLES)
    inverse = np.linalg.inv(features.T @ (features * (p * (1 - p))[:, None]) + penalty)
    scores = pd.DataFrame(features * (y - p)[:, None]).groupby(prompt).sum().to_numpy()
    return inverse @ (scores.T @ scores) @ inverse


def report(name, beta, covariance):
    groups, free = PROMPTS, COUNT - 1 + STYLES
    c = contrasts()
    values = c @ beta
    stderrs = np.sqrt(np.diag(c @ covariance @ c.T) * groups / (groups - free))
    for index, (value, stderr) in enumerate(zip(values, stderrs)):
        scale, shift = (PER_NAT, 1000) if index < COUNT else (1, 0)
        kind = "rating" if index < COUNT else "effect"
        print(name, kind, repr(float(value * scale + shift)), repr(float(stderr * scale)),
              repr(float((value - Z * stderr) * scale + shift)))


def main():
    a, b, y, x, prompt = battles()
    for row in zip(a, b, y, prompt, *x.T):
        print("battle", *(repr(float(v)) if isinstance(v, np.floating) else int(v) for v in row))
    features = design(a, b, x)

    groups = {"groups": prompt, "use_correction": False}
    glm = sm.GLM(y, features, family=sm.families.Binomial())
    free = glm.fit(tol=1e-14, maxiter=200, cov_type="cluster", cov_kwds=groups)
    assert np.allclose(free.cov_params(), sandwich(features, y, prompt, free.params, 0.0), rtol=1e-8)
    report("free", free.params, free.cov_params())

    names = {1.0: "model_a", 0.0: "model_b", 0.5: "tie"}
    frame = pd.DataFrame({"model_a": [f"m{i}" for i in a], "model_b": [f"m{i}" for i in b],
                          "winner": [names[value] for value in y]})
    styles = [f"x{i}" for i in range(STYLES)]
    frame[styles] = x
    data = ContextualPairDataset.from_pandas(frame, styles, reweighted=False, normalize_features=False)
    model = ContextualBradleyTerry(COUNT, STYLES, reg=1 / len(y), max_iter=5000, ftol=1e-30, gtol=1e-14)
    model.fit(data)
    strengths, effects = (np.asarray(model.params[name]) for name in ("ratings", "coeffs"))
    beta = np.concatenate([strengths[:-1] - strengths[-1], effects])
    ridges = np.array([0.0] * (COUNT - 1) + [1.0] * STYLES) / len(y)
    theirs = glm.fit_regularized(alpha=ridges, L1_wt=0.0, start_params=beta).params
    assert np.allclose(theirs, beta, atol=1e-5), (theirs, beta)
    report("ridge", beta, sandwich(features, y, prompt, beta, 1.0))


main()
