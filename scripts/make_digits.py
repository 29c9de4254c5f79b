"""Make maskworld/data/uci_digits.npz: the 1797 handwritten digits of 8x8 that scikit-learn bundles.

    python scripts/make_digits.py          (needs scikit-learn, which the package does not)

They are the test part of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (1998), UCI
Machine Learning Repository, https://doi.org/10.24432/C50P49, under CC BY 4.0. The pixels, 0..16, and their
order are unchanged; only the container is another.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

FILE = Path(__file__).parent.parent / "maskworld" / "data" / "uci_digits.npz"


def main() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    assert images.shape == (1797, 8, 8) and (images == digits.images).all() and images.max() == 16
    credit = "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, 1998, CC BY 4.0"
    np.savez_compressed(FILE, images=images, labels=labels, credit=np.array(credit))
    print(f"{FILE}: {len(images)} digits, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
