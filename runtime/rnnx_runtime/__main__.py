"""`python -m rnnx_runtime model.onnx --text hello`: an artifact answers, where only the runtime is installed."""

import argparse
import os
import sys

from rnnx_runtime import RnnxError, load


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rnnx_runtime", description="Answer a text with an artifact.")
    parser.add_argument("artifact", help="the .onnx file made by `rnnx export`")
    parser.add_argument("--text", required=True, help="what the model is given")
    arguments = parser.parse_args()
    try:
        answer = load(arguments.artifact).infer(arguments.text)
    except RnnxError as error:
        return _fail(str(error))
    try:
        if sys.stdout is None:
            return _fail("the answer cannot be written: there is no standard output")
        print(answer, flush=True)
    except UnicodeEncodeError as error:
        return _fail(f"the answer cannot be written in {error.encoding}; set PYTHONIOENCODING=utf-8")
    except OSError as error:
        # What is left in the buffer goes nowhere: Python would complain of it once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail(f"the answer cannot be written: {error.strerror}")
    return 0


def _fail(reason: str) -> int:
    print(f"Error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
