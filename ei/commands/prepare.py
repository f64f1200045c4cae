"""Lay out the paper's data from what can be fetched by hand (the README says from where):

    {prog} ct100 --dicom CT100_dicom.zip            writes dataset/CT/CT100_128x128.mat
    {prog} urban100 --source Urban100.zip           writes dataset/Urban100/train/... and test/...

Both take a folder or a ZIP file. CT100 needs the extra ``dicom``. Its recipe is reconstructed: it gives the paper's FBP
figures, not the authors' bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ei.commands.settings import parser_of
from ei.datasets.prepare import prepare_ct100, prepare_urban100
from ei.errors import InputError


def main(arguments: Sequence[str], prog: str = "ei prepare") -> None:
    parser = parser_of("prepare", prog, (__doc__ or "").format(prog=prog))
    parser.add_argument("what", choices=("ct100", "urban100"))
    given = vars(parser.parse(arguments))
    option = "dicom" if given["what"] == "ct100" else "source"
    if option not in given:
        raise InputError(f"{given['what']} needs --{option}, a folder or ZIP file")
    source = Path(given[option])
    if given["what"] == "ct100":
        out = Path(given.get("out", "dataset/CT/CT100_128x128.mat"))
        value = prepare_ct100(source, out)
        print(f"{out}: 100 slices; FBP of 50 views on the 10 test slices: {value:.2f} dB (the paper's: 30.24)")
    else:
        out = Path(given.get("out", "dataset/Urban100"))
        prepare_urban100(source, out)
        print(f"{out}: 90 training and 10 test images, each of which opens")
