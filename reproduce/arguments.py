"""Types of command-line options."""

import argparse


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
