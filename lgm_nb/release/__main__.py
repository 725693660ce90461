"`python -m lgm_nb.release`: see commands.py."
import sys

from lgm_nb.release.commands import main

if __name__ == "__main__": sys.exit(main())
