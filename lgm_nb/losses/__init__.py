"Losses of full scale: perceptual, adversarial, feature alignment. Imports base and the method."
from lgm_nb.base.moved import answers_for

__getattr__ = answers_for(__name__, "terms", "pretrained")
