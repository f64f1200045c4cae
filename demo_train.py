"""Train as in the paper: ``python demo_train.py --task ct`` (or inpainting); the same as ``python -m ei train``."""

from ei.commands import script

if __name__ == "__main__":
    script("demo_train.py", "train")
