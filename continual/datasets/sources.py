"""The one table of data sets: their files in the data folder, where they can be fetched, and their checksums."""

from __future__ import annotations

from dataclasses import dataclass

KRIZHEVSKY = "https://www.cs.toronto.edu/~kriz/"
LAKE = "https://raw.githubusercontent.com/brendenlake/omniglot/057f034baf2ecb8530bc5710e5a23584d2a519cc/python/"
MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"


@dataclass(frozen=True)
class File:
    """One file of a data set.

    Attributes:
        path: in the data folder.
        url: where it can be fetched; "": nowhere that is known, it must be put there.
        digest: "sha256:..." or "md5:..." of what the source publishes; "": none is known.
        unpacked: the digest is that of the content once unpacked (a .gz may be packed in several ways).
        size: bytes, about; 0: not known.
    """

    path: str
    url: str = ""
    digest: str = ""
    unpacked: bool = False
    size: int = 0


@dataclass(frozen=True)
class Source:
    """A data set as its files.

    Attributes:
        name: by which it is fetched.
        title: what it is.
        terms: under which it may be used, as far as its source says.
        files: all of them.
    """

    name: str
    title: str
    terms: str
    files: tuple[File, ...]


def _mnist(part: str, digest: str, size: int) -> File:
    return File(f"mnist/{part}-ubyte.gz", f"{MIRROR}{part}-ubyte.gz", f"md5:{digest}", True, size)


def _cifar(name: str, digest: str, size: int) -> File:
    folder = name.removesuffix("-python").replace("-", "")
    return File(f"{folder}/{name}.tar.gz", f"{KRIZHEVSKY}{name}.tar.gz", digest, False, size)


SOURCES = {
    source.name: source
    for source in (
        Source(
            "mnist",
            "70,000 handwritten digits, 28 x 28, grey",
            "LeCun & Cortes; commonly stated CC BY-SA 3.0",
            (
                _mnist("train-images-idx3", "6bbc9ace898e44ae57da46a324031adb", 9_900_000),
                _mnist("train-labels-idx1", "a25bea736e30d166cdddb491f175f624", 29_000),
                _mnist("t10k-images-idx3", "2646ac647ad5339dbf082846283269ea", 1_650_000),
                _mnist("t10k-labels-idx1", "27ae3e4e09519cfbb04c329615203637", 4_500),
            ),
        ),
        Source(
            "cifar10",
            "60,000 photographs of 10 kinds of things, 32 x 32, colour",
            "Krizhevsky 2009; no licence stated",
            (_cifar("cifar-10-python", "md5:c58f30108f718f92721af3b95e74349a", 170_498_071),),
        ),
        Source(
            "cifar100",
            "60,000 photographs of 100 kinds of things, 32 x 32, colour",
            "Krizhevsky 2009; no licence stated",
            (_cifar("cifar-100-python", "md5:eb9058c3a382ffc7106e4002c42a8d85", 169_001_437),),
        ),
        Source(
            "cifar100_sub",
            "CIFAR-100 in the binary format, 150 + 30 images of each class",
            "as cifar100; a subset that is not published: put it there",
            (
                File("cifar100_sub/train.bin.gz", size=41_926_685),
                File("cifar100_sub/test.bin.gz", size=8_408_736),
                File("cifar100_sub/fine_label_names.txt", size=725),
                File("cifar100_sub/coarse_label_names.txt", size=328),
            ),
        ),
        Source(
            "omniglot_small1",
            "136 characters of 5 alphabets, each drawn by 20 people",
            "Lake 2015, MIT",
            (
                File(
                    "omniglot_small1/images_background_small1.zip",
                    f"{LAKE}images_background_small1.zip",
                    "sha256:f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
                    size=1_319_022,
                ),
            ),
        ),
        Source(
            "omniglot",
            "1,623 characters of 50 alphabets, each drawn by 20 people",
            "Lake 2015, MIT",
            (
                File(
                    "omniglot/images_background.zip",
                    f"{LAKE}images_background.zip",
                    "md5:68d2efa1b9178cc56df9314c21c6e718",
                    size=9_464_212,
                ),
                File(
                    "omniglot/images_evaluation.zip",
                    f"{LAKE}images_evaluation.zip",
                    "md5:6b91aef0f799c5bb55b94e3f2daec811",
                    size=6_462_886,
                ),
            ),
        ),
        Source(
            "tinyimagenet",
            "110,000 photographs of 200 kinds of things, 64 x 64, colour",
            "Stanford CS231n, from ImageNet; research use",
            (
                File(
                    "tinyimagenet/tiny-imagenet-200.zip",
                    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                    "md5:90528d7ca1a48142e341f4ef8d21d0de",
                    size=248_100_043,
                ),
            ),
        ),
    )
}
"""By name, in the order of the list."""
