import numpy as np
import pytest

from helpers.environment import physical_cores
from helpers.runtimes import (
    baseline_logits,
    load_model,
    load_text_encoder,
    median_ms,
    pad_rows,
)


@pytest.mark.parametrize("runtime", ["pytorch", "onnxruntime", "openvino"])
def test_a_runtime_runs_on_the_threads_it_was_given(runtime, tiny_folder, tiny_onnx):
    source = tiny_folder if runtime == "pytorch" else tiny_onnx
    for threads in (1, physical_cores()):
        assert load_model(runtime, source, threads=threads).threads == threads


def test_more_threads_than_the_runtime_takes_are_refused(tiny_onnx):
    with pytest.raises(RuntimeError, match=r"openvino uses \d+ threads instead of 4096"):
        load_model("openvino", tiny_onnx, threads=4096)


def test_static_shapes_give_the_logits_of_the_dynamic_model(tiny_onnx):
    dynamic = load_model("openvino", tiny_onnx, threads=1)
    static = load_model("openvino", tiny_onnx, threads=1, buckets=(4, 16))
    rng = np.random.default_rng(0)
    rows = [rng.integers(1000, 20000, size=n) for n in (16, 1, 4, 5, 12, 3)]
    ids, mask = pad_rows(rows)
    np.testing.assert_allclose(static.run(ids, mask), dynamic.run(ids, mask), atol=1e-4)
    with pytest.raises(ValueError, match="17 word pieces do not fit the longest of"):
        static.run(np.ones((1, 17), dtype=np.int64), np.ones((1, 17), dtype=np.int64))


def test_a_long_sentence_does_not_slow_the_others_of_its_batch(tiny_openvino):
    """Each row runs at the bucket of its own word pieces, not of the width of the batch."""
    model = load_model("openvino", tiny_openvino, threads=1, buckets=(8, 512))
    alone = pad_rows([np.full(6, 2000)] * 16)
    beside_a_long_one = tuple(np.pad(array, ((0, 0), (0, 500))) for array in alone)
    assert median_ms(model.run, beside_a_long_one) < 3 * median_ms(model.run, alone)
    np.testing.assert_array_equal(model.run(*beside_a_long_one), model.run(*alone))


@pytest.mark.parametrize("mode", ["autograd", "inference_mode"])
def test_pytorch_modes_agree(tiny_folder, mode):
    inputs = pad_rows([np.array([101, 2307, 2143, 102])])
    logits = load_model("pytorch", tiny_folder, threads=1, mode=mode).run(*inputs)
    expected = load_model("pytorch", tiny_folder, threads=1).run(*inputs)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


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
