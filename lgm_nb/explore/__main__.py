"`python -m lgm_nb.explore`: see page.py."
import sys

from lgm_nb.explore.page import main

if __name__ == "__main__": sys.exit(main())
