"""``python -m ei COMMAND``."""

from ei.commands import main

if __name__ == "__main__":
    main()
