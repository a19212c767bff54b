"""Any text at all: no crash, no NaN, and one answer from every runtime, alone and in a batch."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from helpers.classify import Classifier
from tests.test_classify import ODD

# every kind of character, lone surrogates, control characters and NUL among them
ANY = st.text(st.characters(exclude_categories=()))
WORDS = st.lists(
    st.one_of(
        st.sampled_from(["film", "dull", "[MASK]", "[SEP]", "##s", "\u200f", "\U0001f600"]), ANY
    )
).map(" ".join)
LARGE = ["a film " * 30_000, "x" * 200_000, " " * 200_000]


@pytest.fixture(scope="module")
def classifiers(tiny_folder, tiny_onnx, tiny_openvino) -> dict[str, Classifier]:
    paths = {"PyTorch": tiny_folder, "ONNX Runtime": tiny_onnx, "OpenVINO": tiny_openvino}
    return {name: Classifier(path, threads=1) for name, path in paths.items()}


def check(classifiers, sentences):
    reference = classifiers["PyTorch"].probabilities(sentences)
    assert np.isfinite(reference).all()
    clear = np.abs(reference[:, 0] - reference[:, 1]) > 1e-3
    for name, classifier in classifiers.items():
        together = classifier.probabilities(sentences)
        alone = np.concatenate([classifier.probabilities([sentence]) for sentence in sentences])
        for found in (together, alone):
            np.testing.assert_allclose(found, reference, atol=5e-4, err_msg=name)
            same = found.argmax(axis=1) == reference.argmax(axis=1)
            assert same[clear].all(), name


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.one_of(ANY, WORDS), min_size=10, max_size=10))
@example([*ODD, "[SEP]", "\u05d0\u05d1 \u0627\u0644", "\ud800"])
@example(["\u2603" * 5])  # of unknown pieces alone
@example([*LARGE, "a fine film"])
def test_hundreds_of_texts_get_one_answer_each(classifiers, sentences):
    check(classifiers, sentences)
