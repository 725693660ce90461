"Views, widgets and pages for the reader. Imports everything; nothing imports it."
from lgm_nb.base.moved import answers_for

__getattr__ = answers_for(__name__, "page")
