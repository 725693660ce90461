"Packaging for pip; every fact comes from settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(root / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
readme = root / "README.md"
# What the commands read travels inside the package; in a clone it stays in data/. Nothing else of
# data/ is taken: downloads and own pictures may lie there. `*` leaves out hidden files.
DATA = ["feature_network.*", "fashion-mnist/*", "reference/*",
        *(f"{name}/{depth}" for name in ("results", "weights") for depth in ("*", "*/*", "*/*/*"))]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    keywords=cfg["keywords"],
    packages=[*find_packages(include=["lgm_nb", "lgm_nb.*"]), "lgm_nb._data"],
    package_dir={"lgm_nb._data": "data"},
    package_data={"lgm_nb.explore": ["static/*"], "lgm_nb._data": DATA},
    exclude_package_data={"lgm_nb._data": ["results/explore.html"]},  # made by a command
    python_requires=">=" + cfg["min_python"],
    install_requires=cfg["requirements"].split(),
    extras_require={name: cfg[f"{name}_requirements"].split() for name in ("dev", "bench")},
)
