"""Corrupted photos are as far from the clean ones as a public implementation takes them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from sight_beyond_text.evaluation.corruptions import KINDS, SEVERITIES, corrupt

pytestmark = pytest.mark.parity

PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_mini" / "val2017"

# Mean absolute difference, in levels of 0..255, of 13 photos at 224 pixels under
# imagecorruptions-imaug 1.1.5 (NumPy 2.4, OpenCV 5.0, scikit-image 0.26), several draws of each.
MEASURED = {
    "gaussian_noise": (15.5, 22.6, 32.6, 44.5, 59.3),
    "shot_noise": (16.2, 24.5, 34.3, 50.4, 62.8),
    "impulse_noise": (3.8, 7.6, 11.5, 21.7, 34.4),
    "defocus_blur": (8.2, 9.8, 12.7, 14.9, 16.9),
    "glass_blur": (9.3, 9.4, 14.5, 14.0, 15.7),
    "motion_blur": (9.6, 13.0, 16.7, 20.1, 22.1),
    "zoom_blur": (13.9, 16.5, 18.1, 20.0, 21.6),
    "snow": (40.1, 63.4, 63.0, 75.3, 87.5),
    "frost": (53.4, 61.9, 67.0, 64.4, 67.3),
    "fog": (42.6, 47.2, 51.3, 51.5, 53.7),
    "brightness": (19.2, 36.8, 51.6, 63.8, 73.0),
    "contrast": (31.3, 36.5, 41.7, 47.0, 49.6),
    "elastic_transform": (8.6, 10.3, 12.2, 13.5, 15.1),
    "pixelate": (4.9, 5.6, 6.9, 8.5, 9.5),
    "jpeg_compression": (6.6, 7.4, 8.0, 9.5, 11.1),
    "speckle_noise": (13.5, 17.7, 29.6, 36.7, 46.0),
    "gaussian_blur": (5.2, 8.9, 11.6, 13.7, 17.1),
    "spatter": (0.8, 4.1, 7.2, 9.4, 15.2),
    "saturate": (13.9, 17.9, 13.9, 31.6, 44.5),
}
# One draw an image: a streak's direction, where clouds, flakes and drops fall.
VARIED = ("motion_blur", "snow", "frost", "fog", "spatter")


@pytest.fixture(scope="module")
def photos():
    if not PHOTOS.is_dir():
        pytest.skip("no ../shared/data/coco_mini beside the checkout")
    return {
        path.name: ImageOps.fit(Image.open(path).convert("RGB"), (224, 224))
        for path in sorted(PHOTOS.glob("*.jpg"))[::13]
    }


@pytest.mark.parametrize("kind", KINDS)
def test_distances_on_photos(photos, kind):
    assert len(photos) == 13
    for severity, expected in zip(SEVERITIES, MEASURED[kind], strict=True):
        found = [
            np.abs(np.asarray(photo, float) - corrupt(photo, kind, severity, name)).mean()
            for name, photo in photos.items()
        ]
        tolerance = 0.2 if kind in VARIED else 0.035
        assert np.mean(found) == pytest.approx(expected, rel=tolerance), severity
