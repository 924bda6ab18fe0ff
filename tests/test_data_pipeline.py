"""The tf.data pipeline gives exactly what `read_image` gives, and its errors name the file."""

import numpy as np
import pytest

from ganspect.data.images import read_image, read_mask
from ganspect.data.pipeline import image_dataset
from ganspect.data.samples import scan
from ganspect.data.synthetic import make


@pytest.fixture
def category(tmp_path):
    return scan(make(tmp_path, ("object",), 32, train=3, good=2, per_defect=1) / "object")


@pytest.mark.parametrize("size", [None, (16, 24)])
@pytest.mark.parametrize("cache", [False, True])
def test_pipeline_equals_read_image(category, size, cache):
    dataset = image_dataset(category.test, 3, size, batch_size=4, cache=cache)
    for _ in range(2):
        batches = list(dataset.as_numpy_iterator())
        assert [len(batch["label"]) for batch in batches] == [4, 2]
        pairs = [(batch, i) for batch in batches for i in range(len(batch["name"]))]
        rows = [{key: values[i] for key, values in batch.items()} for batch, i in pairs]
        for sample, row in zip(category.test, rows, strict=True):
            assert row["name"].decode() == sample.name and row["label"] == sample.label
            np.testing.assert_array_equal(row["image"], read_image(sample.path, 3, size))
            assert row["mask"].any() == bool(sample.label)
            if sample.mask_path:
                np.testing.assert_array_equal(row["mask"], read_mask(sample.mask_path, size))


def test_shapes_are_known_before_iterating(category):
    spec = image_dataset(category.train, 1, 16).element_spec
    assert spec["image"].shape.as_list() == [None, 16, 16, 1] and spec["mask"].shape.as_list() == [None, 16, 16]


def test_errors_name_the_file(category):
    import tensorflow as tf

    category.train[1].path.write_bytes(b"no image")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"001\.png: not an image"):
        list(image_dataset(category.train, 3))
