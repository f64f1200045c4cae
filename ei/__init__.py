"""Equivariant Imaging: learning to reconstruct images from measurements alone (Chen, Tachella & Davies, ICCV 2021)."""

__version__ = "0.1.0"
