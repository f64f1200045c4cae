"""Evaluate a checkpoint on the Urban100 test images (91-100), one at a time.

    python demo_test_inpainting.py --mask mask_random0.3.pt         the authors' download in ckp/inpainting, their mask
    python demo_test_inpainting.py --ckp ckp/RUN/ckp_last.pth.tar   a run of yours (it carries its mask)
    python demo_test_inpainting.py --ckp PATH --data FOLDER --sample-to-show 0 6

Prints mean and standard deviation of both PSNR definitions and of SSIM for A_dagger y (the masked image) and the
network; writes metrics.csv and a figure for each sample to show.
"""

from ei.evaluate import run_test_script
from ei.options import run_script


def main() -> None:
    run_test_script("inpainting", "demo_test_inpainting.py", __doc__, lambda name: f"dataset/{name}", "Urban100")


if __name__ == "__main__":
    run_script("demo_test_inpainting.py", main)
