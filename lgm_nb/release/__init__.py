"The authors' files, corrections for one length, the paper's numbers. Imports everything but explore."
from lgm_nb.base.moved import answers_for

__getattr__ = answers_for(__name__, "commands", "reading")
