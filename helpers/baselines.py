"""The classifier a transformer must beat: TF-IDF features under a logistic regression."""

from collections.abc import Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline


def fit_tfidf(sentences: Sequence[str], labels: Sequence[int]) -> Pipeline:
    """Fit TF-IDF over words and word pairs and a logistic regression on it."""
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    classifier = LogisticRegression(C=10, max_iter=1000)
    return make_pipeline(features, classifier).fit(list(sentences), list(labels))
