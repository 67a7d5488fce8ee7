"""A shard as a process that stops at one step of a change of its partitions, says so, and waits to be killed.

    python halting_shard.py 'split: STEP' '<config as JSON>'

It stops only once it was sent SIGUSR1: an exchange comes by itself, and maybe before anything was served. Of an
exchange it stops where what the partition has learned is published ("exchange: published"), where what others
have learned is logged and not folded ("exchange: logged"), or after that ("exchange: folded").
"""

import asyncio
import signal
import sys
import threading

from service.shard.actor import main
from service.shard.exchange import Exchanger
from service.shard.partition import Partition
from service.shard.reshard import Resharding

STEP = sys.argv.pop(1)
ARMED = threading.Event()


def stops_at(step: str, name: str) -> bool:
    stops = step == STEP and ARMED.is_set()
    if stops:
        print(f"halted at {name}", flush=True)
    return stops


async def step(self: Resharding, name: str) -> None:
    if stops_at(f"{self.doing.partition(' ')[0]}: {name}", name):
        await asyncio.Event().wait()


take, fold = Exchanger._take, Partition.fold_exchange


async def taking(self: Exchanger, *others: list[str]) -> None:
    if stops_at("exchange: published", "published"):
        await asyncio.Event().wait()
    await take(self, *others)


def folding(self: Partition, message: bytes) -> None:
    serving = self.state == "serving"
    if serving and stops_at("exchange: logged", "logged"):
        threading.Event().wait()
    fold(self, message)
    if serving and stops_at("exchange: folded", "folded"):
        threading.Event().wait()


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, lambda *_: ARMED.set())
    Resharding.step = step
    Exchanger._take, Partition.fold_exchange = taking, folding
    main()
