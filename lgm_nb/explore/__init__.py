"Views, widgets and pages for the reader. Imports everything; nothing imports it."
from lgm_nb.base.moved import answers_for

MODULES = "drawing groups pictures alignment quality widgets sampling film page".split()
__getattr__ = answers_for(__name__, *MODULES)
