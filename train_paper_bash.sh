#!/usr/bin/env bash
# The paper's two trainings, with every setting spelt out. Data: dataset/CT/CT100_128x128.mat, dataset/Urban100.
# Stopped, or killed, it continues where it was when it is run again; what is finished is skipped.
# Further options apply to both, as in: bash train_paper_bash.sh --device cuda:0
set -euo pipefail
cd "$(dirname "$0")"
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python

"$python" demo_train.py --out ckp/paper_ei_ct --resume auto \
    --task ct --method ei --ct-views 50 --epochs 5000 --lr 5e-4 --wd 1e-8 --batch-size 2 \
    --ei-trans 5 --ei-alpha 100 --schedule 2000 3000 4000 --ckp-interval 1000 "$@"
"$python" demo_train.py --out ckp/paper_ei_inpainting --resume auto \
    --task inpainting --method ei --mask-rate 0.3 --epochs 2000 --lr 1e-3 --wd 1e-8 --batch-size 1 \
    --ei-trans 3 --ei-alpha 1 --schedule 500 1000 1500 --ckp-interval 500 "$@"
