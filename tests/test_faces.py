"""Where faces are cut out, and which; detectors themselves are optional packages."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from dataset.errors import InputError
from dataset.preparation.faces import (
    SIDE,
    TEMPLATE,
    align,
    crop_face,
    largest,
    middle_square,
    mtcnn,
    retinaface,
    similarity,
)


@pytest.mark.parametrize("angle, scale, shift", [(0, 1, (0, 0)), (0.4, 0.6, (30, -12)), (-1.2, 2.5, (-7, 90))])
def test_similarity_undoes_a_rotation_scale_and_shift(angle, scale, shift):
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = TEMPLATE @ turn.T + shift
    matrix = similarity(points, TEMPLATE)
    assert points @ matrix[:, :2].T + matrix[:, 2] == pytest.approx(TEMPLATE, abs=1e-6)


def test_points_that_no_similarity_fits_are_fitted_best():
    rng = np.random.default_rng(0)
    points = TEMPLATE + rng.normal(0, 8, TEMPLATE.shape)
    matrix = similarity(points, TEMPLATE)

    def error(m: np.ndarray) -> float:
        return ((points @ m[:, :2].T + m[:, 2] - TEMPLATE) ** 2).sum()

    for turn in (np.array([[0.01, 0, 0], [0, 0.01, 0]]), np.array([[0, -0.01, 0], [0.01, 0, 0]]),
                 np.array([[0, 0, 1], [0, 0, 0]]), np.array([[0, 0, 0], [0, 0, 1]])):
        assert error(matrix) < min(error(matrix + turn), error(matrix - turn))


def test_aligned_face_has_its_points_where_the_template_has_them():
    image = np.zeros((300, 400, 3), np.uint8)
    points = TEMPLATE * 0.7 + [120, 60]
    for x, y in points.round().astype(int):
        image[y - 2:y + 3, x - 2:x + 3] = 255
    face = align(image, points)
    assert face.shape == (SIDE, SIDE, 3)
    for x, y in TEMPLATE.round().astype(int):
        assert face[y, x].min() > 150
    assert (face > 100).mean() < 0.02


@pytest.mark.parametrize("shape", [(100, 300), (300, 100), (480, 360), (224, 224)])
def test_without_a_detector_the_middle_square_is_taken(shape):
    image = np.zeros((*shape, 3), np.uint8)
    top, left = ((side - min(shape)) // 2 for side in shape)
    image[top:top + min(shape), left:left + min(shape)] = 200
    assert middle_square(image).shape == (SIDE, SIDE, 3) and middle_square(image).min() == 200
    assert np.array_equal(crop_face(image, None), middle_square(image))


def test_no_face_gives_no_crop_and_the_largest_of_several_is_taken():
    assert crop_face(np.zeros((50, 50, 3), np.uint8), lambda image: None) is None
    assert largest([(0, 0, 10, 10), (5, 5, 40, 20), (0, 0, 9, 30)]) == 1


@pytest.mark.parametrize("detector, package, command", [
    (mtcnn, "facenet_pytorch", "pip install --no-deps facenet-pytorch"),
    (retinaface, "retinaface", "pip install retina-face tf-keras")])
def test_a_missing_extra_is_a_sentence_with_the_command(monkeypatch, detector, package, command):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=command):
        detector()


def fake_retinaface(monkeypatch, build: object, found: object) -> None:
    module = ModuleType("retinaface")
    module.RetinaFace = SimpleNamespace(build_model=build, detect_faces=lambda image, model: found)
    monkeypatch.setitem(sys.modules, "retinaface", module)


def test_weights_that_cannot_be_downloaded_are_a_sentence(monkeypatch):
    def build():
        raise ValueError("An exception occurred while downloading retinaface.h5\nmore")

    fake_retinaface(monkeypatch, build, {})
    with pytest.raises(InputError, match=r"downloading retinaface\.h5\): run it once with a network connection"):
        retinaface()


def test_retinaface_points_come_left_in_the_picture_first_and_of_the_largest_face(monkeypatch):
    marks = {"right_eye": [10, 20], "left_eye": [30, 20], "nose": [20, 30], "mouth_right": [12, 40],
             "mouth_left": [28, 40]}
    faces = {"face_1": {"facial_area": [0, 0, 5, 5], "landmarks": {name: [0, 0] for name in marks}},
             "face_2": {"facial_area": [0, 0, 50, 50], "landmarks": marks}}
    fake_retinaface(monkeypatch, lambda: None, faces)
    points = retinaface()(np.zeros((60, 60, 3), np.uint8))
    assert points.tolist() == [[10, 20], [30, 20], [20, 30], [12, 40], [28, 40]]
    assert (np.diff(TEMPLATE[[0, 1]], axis=0)[0, 0] > 0) == (points[1, 0] > points[0, 0])
    fake_retinaface(monkeypatch, lambda: None, {})
    assert retinaface()(np.zeros((60, 60, 3), np.uint8)) is None


def test_mtcnn_takes_no_face_that_it_is_not_sure_of(monkeypatch):
    boxes = np.array([[0, 0, 90, 90], [0, 0, 20, 20], [0, 0, 30, 30]], dtype=float)
    points = np.arange(30, dtype=np.float32).reshape(3, 5, 2)
    answers = iter([(boxes, np.array([0.8, 0.99, 0.95]), points), (boxes, np.array([0.8, 0.1, 0.2]), points),
                    (None, [None], None)])
    module = ModuleType("facenet_pytorch")
    module.MTCNN = lambda **_: SimpleNamespace(detect=lambda image, landmarks: next(answers))
    monkeypatch.setitem(sys.modules, "facenet_pytorch", module)
    detect, image = mtcnn(), np.zeros((60, 60, 3), np.uint8)
    assert np.array_equal(detect(image), points[2]) and detect(image) is None and detect(image) is None
