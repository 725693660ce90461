"`python -m lgm_nb.data`: see images.py."
import sys

from lgm_nb.data.images import main

if __name__ == "__main__": sys.exit(main())
