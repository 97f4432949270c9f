"""One side of a table that is shared with the Python library 0.2.0, for a test.

usage: sharing.py STEP TABLE ENDPOINT; prints what it saw as JSON.
"""

import asyncio
import dataclasses
import json
import sys

from zae_limiter import Limit, RateLimiter, __version__
from zae_limiter.exceptions import RateLimitExceeded

RPM = Limit.per_minute("rpm", 100)
TPM = Limit.per_minute("tpm", 10_000, burst=50_000)


async def write(limiter, repository):
    """What the other side must be able to read."""
    await limiter.create_entity("py-top", name="Top", metadata={"plan": "pro", "größe": "ü"})
    await limiter.create_entity("py-child", parent_id="py-top")
    await limiter.create_entity("py-gone")
    await limiter.delete_entity("py-gone")
    await limiter.set_limits("py-top", [RPM, TPM])
    await limiter.set_limits("py-top", [RPM], resource="gpt-4")
    await limiter.set_limits("py-child", [RPM], resource="gpt-4")
    await limiter.delete_limits("py-child", resource="gpt-4")
    await limiter.set_limits("py-many", [Limit.per_day(f"l{i}", 1 + i) for i in range(45)])
    await repository.set_limits("py-child", [TPM], principal="alice@example.com")
    await repository.set_version_record("1.0.0", updated_by="python")
    async with limiter.acquire("py-child", "gpt-4", [RPM], {"rpm": 1}, cascade=True):
        pass
    return {}


async def read(limiter, repository):
    """What the other side has written."""
    entities = [await limiter.get_entity(i) for i in ("rs-top", "rs-child", "rs-gone")]
    refused = None
    try:
        # Two of one request a day, of the stored limits only.
        for _ in range(2):
            acquire = limiter.acquire(
                "rs-child", "gpt-4", [RPM], {"rpd": 1}, use_stored_limits=True
            )
            async with acquire:
                pass
    except RateLimitExceeded as error:
        refused = [status.limit_name for status in error.violations]
    return {
        "entities": [e and dataclasses.asdict(e) for e in entities],
        "children": [e.id for e in await limiter.get_children("rs-top")],
        "own": [limit.to_dict() for limit in await limiter.get_limits("rs-child", "gpt-4")],
        "default": [limit.to_dict() for limit in await limiter.get_limits("rs-child")],
        "refused": refused,
        "events": [dataclasses.asdict(e) for e in await repository.get_audit_events("rs-child")],
        "version": await repository.get_version_record(),
    }


async def replace(limiter, repository):
    """Over what the other side has written."""
    await limiter.set_limits("rs-child", [TPM], resource="gpt-4")
    await limiter.delete_limits("rs-child")
    return {}


async def delete(limiter, repository):
    await limiter.delete_entity("rs-child")
    return {"left": await limiter.get_entity("rs-child")}


async def connect(limiter, repository):
    """As any client does, its own versions checked."""
    name = limiter.table_name
    async with RateLimiter(
        name=name, region="us-east-1", endpoint_url=limiter._repository.endpoint_url
    ) as checking:
        await checking.available("py-any", "gpt-4", [RPM])
    return await repository.get_version_record()


async def deployed(limiter, repository):
    """What its first client on a real account leaves: its own version as that of the functions."""
    await repository.set_version_record(
        "1.0.0", lambda_version=__version__, updated_by=f"client:{__version__}"
    )
    return await repository.get_version_record()


async def refuse(limiter, repository):
    """What it tells of an acquire that is refused by one limit of two."""
    limits = [Limit.per_day("rpd", 100, burst=150), Limit.per_day("tpd", 1_000)]
    consumed = limiter.acquire("py-refused", "gpt-4", limits, {"rpd": 40, "tpd": 7})
    async with consumed:
        pass
    try:
        async with limiter.acquire("py-refused", "gpt-4", limits, {"rpd": 120, "tpd": 3}):
            pass
    except RateLimitExceeded as error:
        return {"body": error.as_dict(), "retry_after": error.retry_after_header}


async def main(what, table, endpoint):
    limiter = RateLimiter(
        name=table, region="us-east-1", endpoint_url=endpoint, skip_version_check=True
    )
    try:
        steps = {"write": write, "read": read, "replace": replace, "delete": delete, "refuse": refuse, "connect": connect, "deployed": deployed}
        print(json.dumps(await steps[what](limiter, limiter._repository), default=str))
    finally:
        await limiter.close()


asyncio.run(main(*sys.argv[1:]))
