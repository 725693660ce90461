"Images and latents: read, stored, cut into batches. Imports base and the method."
from lgm_nb.base.moved import answers_for

__getattr__ = answers_for(__name__, "images")
