"Features, metrics and the scorer of samples and reconstructions. Imports training and what lies below."
from lgm_nb.base.moved import answers_for

__getattr__ = answers_for(__name__, "scorer", "report", "search", "pictures")
