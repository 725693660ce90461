"`python -m lgm_nb.claims`: see work.py."
import sys

from lgm_nb.claims.work import main

if __name__ == "__main__": sys.exit(main())
