"""The CPU backend of Treadle: kernels in C, chosen for the processor at hand when first used."""
