"""A client that predicts, one event after the other, in a process of its own.

    python -m continual.bench._pings ADDRESS MODEL FEATURES

begins at a line on standard input, ends at the next one, and prints the seconds of every call, as a list of JSON in a
line; and so on until it is ended.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import grpc
import numpy as np

from service.api import continual_v1_pb2 as pb
from service.api import continual_v1_pb2_grpc as api


def main(address: str, model: str, features: str) -> None:
    """Serves standard input."""
    request = pb.PredictRequest(model=model)
    request.columns.rows = 1
    request.columns.x = np.zeros(int(features), np.float32).tobytes()
    with grpc.insecure_channel(address) as channel:
        predict = api.OnlineLearningStub(channel).Predict

        def served() -> bool:
            try:
                predict(request)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return False  # not just now: the wait counts
            return True

        served()
        print("ready", flush=True)
        while sys.stdin.readline():
            over, seconds = threading.Event(), list[float]()

            def calls(over: threading.Event = over, seconds: list[float] = seconds) -> None:
                while not over.is_set() or not seconds:
                    start = time.perf_counter()
                    while not served():
                        time.sleep(0.002)
                    seconds.append(time.perf_counter() - start)

            thread = threading.Thread(target=calls)
            thread.start()
            sys.stdin.readline()
            over.set()
            thread.join()
            print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
