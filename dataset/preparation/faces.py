"""Faces for the VoxCeleb layout: detected, and aligned by five points. H x W pixels; S pixels per side of the result.

A detector takes an image (H, W, 3) uint8 RGB and returns the points (5, 2) of its largest face in pixels (eyes, nose,
corners of the mouth; the left one in the image first), or None without a face.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from dataset.errors import InputError
from dataset.preparation.reader import read_middles

SIDE = 224  # pixels
SMALLEST = 32  # pixels per side: MTCNN fails on images hardly larger than its smallest face (20 pixels)
SURE = 0.9  # least probability of a face: RetinaFace's default; below it MTCNN has many false detections
# positions of the five points after alignment: ArcFace's template for 112 pixels (CVPR 2019), doubled
TEMPLATE = 2 * np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
                         [70.7299, 92.2041]])

Detector = Callable[[np.ndarray], np.ndarray | None]


def crop_face(image: np.ndarray, detector: Detector | None) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB -> (S, S, 3): the largest face, aligned; without a detector the middle square, for videos
    that are already cropped to the face. None if there is no face."""
    if detector is None:
        return middle_square(image)
    points = detector(image)
    return None if points is None else align(image, points)


def read_faces(video: Path, fps: float, detector: Detector | None) -> list[np.ndarray | None]:
    """Of `fps` frames a second of a video: (S, S, 3) uint8 RGB each, None where there is no face. Raises InputError."""
    return [crop_face(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), detector)
            for frame in read_middles(video, fps)]


def found_faces(crops: Sequence[np.ndarray | None], video: Path) -> list[np.ndarray]:
    """The faces among what `read_faces` gives. Raises InputError: none."""
    faces = [crop for crop in crops if crop is not None]
    if not faces:
        raise InputError(f"no face found in {len(crops)} frames of {video}: remove it, or try another --detector")
    return faces


def write_faces(faces: Sequence[np.ndarray], folder: Path) -> None:
    """As 0000000.png, 0000001.png, ..."""
    for number, face in enumerate(faces):
        png = cv2.imencode(".png", cv2.cvtColor(face, cv2.COLOR_RGB2BGR))[1]
        (folder / f"{number:07d}.png").write_bytes(png)  # cv2.imwrite hides a full disk


def middle_square(image: np.ndarray) -> np.ndarray:
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = image[top:top + side, left:left + side]
    return cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC)


def align(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Rotates, scales and shifts the image to bring the points (5, 2) closest to TEMPLATE; black outside the image."""
    return cv2.warpAffine(image, similarity(points, TEMPLATE), (SIDE, SIDE), flags=cv2.INTER_AREA)


def similarity(points: np.ndarray, template: np.ndarray) -> np.ndarray:
    """The (2, 3) matrix of the rotation, scale and shift that maps points (P, 2) to `template`, by least squares."""
    x, y = points.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    equations = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])  # (2 P, 4)
    along, across, right, down = np.linalg.lstsq(equations, template.T.ravel(), rcond=None)[0]
    return np.array([[along, -across, right], [across, along, down]])


def mtcnn() -> Detector:
    """MTCNN (Zhang et al. 2016) of facenet-pytorch, whose package contains the weights."""
    try:
        from facenet_pytorch import MTCNN
    except ImportError:
        raise InputError('--detector mtcnn needs facenet-pytorch: "pip install --no-deps facenet-pytorch==2.6.0" '
                         "(without its dependencies, which are old versions of installed packages)") from None
    network = MTCNN(keep_all=True, device="cpu")

    def detect(image: np.ndarray) -> np.ndarray | None:
        if min(image.shape[:2]) < SMALLEST:
            return None
        boxes, probabilities, points = network.detect(image, landmarks=True)
        sure = [] if boxes is None else np.flatnonzero(probabilities >= SURE)
        return points[sure][largest(boxes[sure])].astype(np.float64) if len(sure) else None

    return detect


def retinaface() -> Detector:
    """RetinaFace (Deng et al., CVPR 2020; used in the paper) of retina-face, which downloads its weights once."""
    try:
        from retinaface import RetinaFace
    except (ImportError, ValueError) as error:  # ValueError: TensorFlow is installed, tf-keras is not
        raise InputError('--detector retinaface needs retina-face: "pip install retina-face tf-keras" '
                         f"({error})") from None
    try:
        network = RetinaFace.build_model()
    except Exception as error:  # whatever its download library raises
        raise InputError("the weights of RetinaFace cannot be downloaded or read "
                         f"({str(error).splitlines()[0] if str(error) else type(error).__name__}): run it once "
                         "with a network connection, put them into ~/.deepface/weights as its documentation says, or "
                         "use --detector mtcnn") from None

    def detect(image: np.ndarray) -> np.ndarray | None:
        found = RetinaFace.detect_faces(image[:, :, ::-1], model=network)
        if not isinstance(found, dict) or not found:
            return None
        faces = list(found.values())
        marks = faces[largest([face["facial_area"] for face in faces])]["landmarks"]
        order = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")  # right of the person: left in the image
        return np.array([marks[name] for name in order], dtype=np.float64)

    return detect


def largest(boxes: Sequence[Sequence[float]]) -> int:
    """The index of the largest box (left, top, right, bottom)."""
    return int(np.argmax([(right - left) * (bottom - top) for left, top, right, bottom in boxes]))


DETECTORS: dict[str, Callable[[], Detector | None]] = {"none": lambda: None, "mtcnn": mtcnn, "retinaface": retinaface}
