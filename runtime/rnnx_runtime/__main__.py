"""`python -m rnnx_runtime model.onnx --text hello`: an artifact answers, where only the runtime is installed."""

import argparse
import sys

from rnnx_runtime import RnnxError, load


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rnnx_runtime", description="Answer a text with an artifact.")
    parser.add_argument("artifact", help="the .onnx file made by `rnnx export`")
    parser.add_argument("--text", required=True, help="what the model is given")
    arguments = parser.parse_args()
    try:
        print(load(arguments.artifact).infer(arguments.text))
    except RnnxError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
