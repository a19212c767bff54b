"""Logistic regressions: over TF-IDF, what a transformer must beat; over features, a probe."""

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def fit_tfidf(sentences: Sequence[str], labels: Sequence[int]) -> Pipeline:
    """Fit TF-IDF over words and word pairs and a logistic regression on it."""
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    classifier = LogisticRegression(C=10, max_iter=1000)
    return make_pipeline(features, classifier).fit(list(sentences), list(labels))


def fit_probe(features: np.ndarray, labels: Sequence[int]) -> Pipeline:
    """Fit a logistic regression on fixed features (n, size), each scaled to unit variance."""
    classifier = LogisticRegression(C=0.1, max_iter=1000)
    return make_pipeline(StandardScaler(), classifier).fit(features, list(labels))
