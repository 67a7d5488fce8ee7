"""A shard as a process that stops at one step of a change of its partitions, says so, and waits to be killed.

    python halting_shard.py 'split: STEP' '<config as JSON>'
"""

import asyncio
import sys

from service.shard.actor import main
from service.shard.reshard import Resharding

STEP = sys.argv.pop(1)


async def step(self: Resharding, name: str) -> None:
    if f"{self.doing.partition(' ')[0]}: {name}" == STEP:
        print(f"halted at {name}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    Resharding.step = step
    main()
