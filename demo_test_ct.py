"""Evaluate a checkpoint on the CT100 test images (slices 90-99): ``python demo_test_ct.py`` is the same as
``python -m ei test --task ct``."""

from ei.commands import script

if __name__ == "__main__":
    script("demo_test_ct.py", "test", "--task", "ct")
