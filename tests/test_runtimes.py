import numpy as np
import pytest

from helpers.environment import physical_cores
from helpers.runtimes import baseline_logits, load_model, load_text_encoder


@pytest.mark.parametrize("runtime", ["pytorch", "onnxruntime", "openvino"])
def test_a_runtime_runs_on_the_threads_it_was_given(runtime, tiny_folder, tiny_onnx):
    source = tiny_folder if runtime == "pytorch" else tiny_onnx
    for threads in (1, physical_cores()):
        assert load_model(runtime, source, threads=threads).threads == threads


def test_more_threads_than_the_runtime_takes_are_refused(tiny_onnx):
    with pytest.raises(RuntimeError, match=r"openvino uses \d+ threads instead of 4096"):
        load_model("openvino", tiny_onnx, threads=4096)


def test_the_light_text_encoder_cuts_as_transformers_does(tiny_folder, tokenizer):
    encode = load_text_encoder(tiny_folder, 64)
    for sentence in ("", "a film", "naïve café … 😀 [MASK] \x00 字", "word " * 300):
        ids, mask = encode(sentence)
        expected = tokenizer(sentence, truncation=True, max_length=64)["input_ids"]
        assert ids.tolist() == [expected] and mask.all() and ids.dtype == np.int64


def test_untrained_weights_have_no_answers(tiny_onnx, encoded):
    class Settings:
        weights = "untrained"

    assert baseline_logits(Settings, tiny_onnx, encoded, name="baseline") == {}
    Settings.weights = "teacher"
    assert len(baseline_logits(Settings, tiny_onnx, encoded, name="b")["b"]) == len(encoded)
