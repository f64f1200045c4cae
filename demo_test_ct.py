"""Evaluate a checkpoint on the CT100 test images (slices 90-99), one at a time.

    python demo_test_ct.py                                          the authors' download in ckp/ct, data in dataset/CT
    python demo_test_ct.py --ckp ckp/RUN/ckp_last.pth.tar           a run of yours
    python demo_test_ct.py --ckp PATH --data CT100_128x128.mat --sample-to-show 0 4

Prints mean and standard deviation of both PSNR definitions and of SSIM for A_dagger y (FBP) and the network; writes
metrics.csv and a figure for each sample to show.
"""

from ei.evaluate import run_test_script
from ei.options import run_script


def main() -> None:
    run_test_script("ct", "demo_test_ct.py", __doc__, lambda name: f"dataset/CT/{name}_128x128.mat", "CT100")


if __name__ == "__main__":
    run_script("demo_test_ct.py", main)
