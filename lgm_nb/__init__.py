__version__ = "0.1.0"
from lgm_nb.base import moved as _moved

_moved.install()
