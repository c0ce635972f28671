"""How a call to Redis can fail for whoever goes on without it."""

from typing import Final

from redis.exceptions import RedisError

REDIS_FAILURES: Final = (RedisError, OSError, TimeoutError, ValueError, TypeError, LookupError, AttributeError)
"""The client raises the first three on purpose. The others are what its reader and ours stumble over where a reply is
none, or another one than was asked for: damaged on its way, or not from a Redis at all. A loop in the background that
they ended would be missed by nobody until its log, or its worker, is."""
