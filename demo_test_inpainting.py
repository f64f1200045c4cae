"""Evaluate a checkpoint on the Urban100 test images (91-100): ``python demo_test_inpainting.py`` is the same as
``python -m ei test --task inpainting``; the authors' checkpoint needs ``--mask mask_random0.3.pt``."""

from ei.commands import script

if __name__ == "__main__":
    script("demo_test_inpainting.py", "test", "--task", "inpainting")
