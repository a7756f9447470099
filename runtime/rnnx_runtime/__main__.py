"""`python -m rnnx_runtime model.onnx --text hello`: an artifact answers, or tests itself, where only the runtime is installed."""

import argparse
import os
import sys

from rnnx_runtime import RnnxError, load, selftest


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rnnx_runtime",
        description="Answer a text with an artifact (--text), or test it on this machine (--selftest).",
    )
    parser.add_argument("artifact", help="the .onnx file made by `rnnx export` or `rnnx adopt`")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", help="what the model is given; it answers through the artifact's codec")
    what.add_argument(
        "--selftest", action="store_true", help="run the golden trace on this machine; exit code 1 where it fails"
    )
    parser.add_argument("--provider", action="append", help="to run on, in order of preference; default: cpu")
    parser.add_argument("--trust", action="store_true", help="allow operators that whoever adopted the file trusted")
    arguments = parser.parse_args()
    providers, passed = arguments.provider or "cpu", True
    try:
        if arguments.selftest:
            result = selftest(arguments.artifact, providers=providers, trust=arguments.trust)
            answer, passed = str(result), result.passed
        else:
            answer = load(arguments.artifact, providers=providers, trust=arguments.trust).infer(arguments.text)
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
    return 0 if passed else 1


def _fail(reason: str) -> int:
    print(f"Error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
