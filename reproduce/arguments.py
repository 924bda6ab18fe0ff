"""Types of command-line options, and options that several commands have."""

import argparse

PRECISIONS = ("float32", "bfloat16")  # as of models.precision, which needs Keras


def whole_number(least):
    """A type for `argparse`: whole numbers from `least` on."""

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < least:
            raise argparse.ArgumentTypeError(f"takes a whole number of {least} or more, not {text!r}")
        return value

    return parse


def add_precision(command):
    """Adds `--precision` to a command that trains."""
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="arithmetic of the training steps; bfloat16 is for GPUs and processors with instructions for it (x86: "
        "avx512_bf16, amx_bf16); scores are always float32",
    )
