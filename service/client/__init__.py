"""The Python client: `Client` blocks, `AsyncClient` is for asyncio; both raise `Refused`."""

from service.client.aio import AsyncClient, AsyncLearnStream
from service.client.session import LearnResult, Numbered
from service.client.sync import Client, LearnStream
from service.errors import Refused, Violation
from service.wire import PredictionBatch

__all__ = [
    "AsyncClient",
    "AsyncLearnStream",
    "Client",
    "LearnResult",
    "LearnStream",
    "Numbered",
    "PredictionBatch",
    "Refused",
    "Violation",
]
